"""Recipes by name: each one builds, runs, and is what it says."""

import json
import re

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.lab.pages.catalogue import catalogue
from emag.records import recipe
from emag.records.named import Recipe, recipes
from emag.schedules import CFGpp, Interval
from spy import Counter
from tiny import CASES

NAMED = pytest.mark.parametrize("name", recipes)


def run(name, case="sd3", **more):
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, "attn")
    with emag.guide(pipe, *(recipes[name].rules if name else ())) as handle:
        image = CASES[case].run(pipe, **more)
    return image, handle.latest, sum(counter.blocks.values())


@NAMED
def test_every_recipe_is_data_that_builds(name):
    made = recipes[name]
    assert made.rules and json.loads(json.dumps(list(made.data))) == list(made.data)
    assert recipe.from_data(recipe.to_data(made.rules)) == made.rules
    assert sum(rule.kind == "combining" for rule in made.rules) == (0 if name in ("emag", "emag-map", "emag-image") else 1)


@NAMED
def test_every_recipe_says_where_it_comes_from(name):
    made = recipes[name]
    assert re.search(r"arXiv \d{4}\.\d{5}|published code", made.source)
    assert "\n" not in made.source + made.note and not (made.source + made.note).endswith(".")
    papers = {rule.paper for rule in made.rules}
    papers |= {rule.scale.paper for rule in made.rules if hasattr(getattr(rule, "scale", None), "paper")}
    cited = re.search(r"arXiv \d{4}\.\d{5}", made.source)
    # those after papers that give an old rule new values
    assert cited is None or cited[0] in papers or name in ("ezaudio", "sgg", "early-high")


@NAMED
def test_every_recipe_runs(name):
    """On the tiny SD3: finite, planned as counted, and not what the pipeline makes by itself."""
    image, stats, counted = run(name)
    assert image.isfinite().all() and stats.evaluations == counted // 2
    assert not torch.allclose(image, run("")[0], atol=1e-3)


RUNNING = ("emag+cfg", "emag+apg", "emag+cads", "cfg-zero*", "tcfg", "fdg", "cfg++", "ezaudio")


@pytest.mark.parametrize("name", RUNNING)
def test_they_run_on_two_call_pipelines(name):
    image, stats, counted = run(name, "true-cfg")
    assert image.isfinite().all() and stats.evaluations == stats.planned == counted // 2


@pytest.mark.parametrize("name", sorted(set(recipes) - {"s-cfg"}))
def test_they_run_on_class_labels(name):
    pipe = CASES["dit"].pipe()
    with emag.guide(pipe, *recipes[name].rules):
        assert CASES["dit"].run(pipe, num_inference_steps=4).isfinite().all()


def test_some_by_hand():
    assert recipes["emag+cfg"].rules == (emag.EMAG(), emag.CFG())
    assert [rule.name for rule in recipes["emag+cads"].rules] == ["cads", "emag", "cfg"]
    assert recipes["interval-edm2"].rules == (emag.CFG(Interval(2.0, 0.19, 1.61)),)
    assert recipes["cfg++"].rules == (emag.CFG(CFGpp(0.6)),)
    ezaudio = recipes["ezaudio"].rules
    assert ezaudio[0] == emag.CFG(5.0) and ezaudio[1].phi == 0.75


def test_an_unknown_name_gives_the_nearest_one():
    with pytest.raises(BadValue, match=r"no recipe 'emag\+cgf'; did you mean emag\+cfg"):
        recipes["emag+cgf"]
    assert "emag+cgf" not in recipes and recipes.get("emag+cgf") is None


def test_a_recipe_is_built_when_asked():
    """A method that does not exist is an error of its recipe, not of all."""
    lost = Recipe(({"lost": {}},), "arXiv 0000.00000")
    with pytest.raises(BadValue, match="no method 'lost'"):
        lost.rules  # noqa: B018


SAID = re.compile(r"authors|publish|untested|unconfirmed|diffusers|port\b|paper|customary|their code|EMAG's|see `", re.I)


def numbers(method):
    """Its parameters that are numbers, but for 0, 1 and -1, which switch things off or are exact."""
    values = method["parameters"].values()
    return [value for value in values if isinstance(value, (int, float, list)) and value not in (0, 1, -1)]


@pytest.mark.parametrize("method", filter(numbers, catalogue()), ids=lambda method: method["name"])
def test_a_number_says_where_it_comes_from(method):
    assert SAID.search(method["about"] + " ".join(method["fields"].values()))
    assert all(len(row["source"]) > 5 for row in method["defaults"])
