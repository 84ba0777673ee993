"""Recipes round-trip, and refuse what they do not know."""

import json

import pytest

import emag
from emag.hosts.defaults import resolve
from emag.lab.draw.columns import Column
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.records import recipe
from emag.schedules import Window

RULES = [
    emag.CFG(4.0), emag.CFG(1.5, channels=3), emag.APG(4.0, eta=0.25, norm_threshold=5.0, momentum=0.0), emag.CADS(),
    emag.CADS(0.1, 0.4, 0.8, 0.5, null=True), emag.EMAG(), emag.EMAG(1.5, "map", (2, 3, 4), beta_time="equal-time"),
    emag.EMAG(2.0, "image", window=Window.progress(0.1, 0.2, 0.9), statistic="kl", jitter=0.5, strength=0.5),
    emag.EMAG(1.5, compat="sd3-official"), emag.EMAG(1.5, compat=Compat(resume=False)),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_survives_json(rule):
    data = json.loads(json.dumps(recipe.to_data([rule])))
    assert recipe.from_data(data) == (rule,)
    assert recipe.from_data({"rules": data}) == (rule,)


@pytest.mark.parametrize(("text", "rule"), [
    ("emag", emag.EMAG()),
    ("emag=1.5", emag.EMAG(1.5)),
    ("emag=1.5,variant=map,layers=2-4", emag.EMAG(1.5, "map", (2, 3, 4))),
    ("emag=2,layers=1+5", emag.EMAG(2.0, layers=(1, 5))),
    ("emag=1.5,layers=none", emag.EMAG(1.5)),
    ("emag=1.5,window=progress:0:0.2:0.8", emag.EMAG(1.5, window=Window.progress(0, 0.2, 0.8))),
    ("apg=4,eta=0", emag.APG(4.0)),
    ("cads=0.1,null=true", emag.CADS(0.1, null=True)),
    ("cfg=1.5,channels=3", emag.CFG(1.5, 3)),
])
def test_the_short_form_means_the_same(text, rule):
    assert recipe.parse(text) == rule


FOX = emag.Energy("clip:a red fox, at night", 2.0)


@pytest.mark.parametrize(("text", "rule"), [
    ('energy="clip:a red fox, at night",strength=2', FOX),
    ('energy=clip:"a red fox, at night", strength=2', FOX),
    ('energy="clip:a ""red"", big = sign",strength=2', emag.Energy('clip:a "red", big = sign', 2.0)),
    ("negative=2,negative=prompt:dog's", emag.Negative(2.0, "prompt:dog's")),
    ('negative=2,negative=prompt:5"', emag.Negative(2.0, 'prompt:5"')),
    ('icg=given,conditions="prompt:a, b + c"+prompt:d', emag.ICG("given", ("prompt:a, b + c", "prompt:d"))),
    ('energy="none"', emag.Energy("none")),
    ("energy=edges:0.1,preset=dps,strength=0.5", emag.Energy.preset("dps", "edges:0.1", strength=0.5)),
])
def test_a_quoted_text_is_taken_as_it_is(text, rule):
    assert recipe.parse(text) == rule and recipe.parse_all(f"{text}  cfg=3") == (rule, emag.CFG(3.0))
    assert Column.parse(f"red: {text} cfg=3").rules == (rule, emag.CFG(3.0))


@pytest.mark.parametrize(("text", "said"), [
    ('energy="clip:a red fox,strength=2', "quotation mark is not closed"),
    ("energy=clip:a red fox, at night", 'key="a, b"'), ("energy=edges,preset=dsp", "no energy preset 'dsp'"),
    ("energy=edges,preset=dps,preset=mpgd", "preset twice"), ("cfg=2,preset=dps", "no parameter 'preset'")])
def test_a_text_that_cannot_be_read_is_told_how(text, said):
    with pytest.raises(emag.BadValue, match=said) as error:
        recipe.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [
    "magic", "emag=much", "emag=1.5,colour=red", "emag=1.5,variant=blue", "emag=-1", "emag=1,layers=a-b", "emag=1,beta=1.5",
    "apg=4,eta", "cads=0.1,null=maybe", "emag=1.5,window=progress:1", "emag=1.5,window=moon:1:2:3", "emag=nan",
    "cads=0.1,tau1=0.9,tau2=0.2", "cfg=-1", "cads=-1", "emag=1,statistic=size", "emag=1,variant=map,statistic=logits",
    "emag=1,compat=best", "", "apg=4,momentum=2",
])
def test_the_short_form_refuses(text):
    with pytest.raises(emag.BadValue) as error:
        recipe.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [
    {"rulez": []}, {"rules": [], "more": 1}, 3, [3], [{"emag": {}, "apg": {}}], [{"magic": {}}], [{"emag": {"scal": 1}}],
    [{"emag": {"scale": "1.5"}}], [{"emag": {"scale": True}}], [{"emag": {"layers": [1.5]}}],
    [{"emag": {"window": {"to": 3}}}],
    [{"emag": 1.5}], [{"emag": {"compat": {"rows": "none"}}}],
])
def test_json_refuses(data):
    with pytest.raises(emag.BadValue):
        recipe.from_data(data)


def test_unreadable_recipe_files(tmp_path):
    with pytest.raises(emag.BadValue, match="cannot read"):
        recipe.read_rules(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(emag.BadValue, match="not valid JSON"):
        recipe.read_rules(tmp_path / "bad.json")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_says_what_it_is(method):
    assert method.__doc__ and method.paper and method.equation
    assert METHODS[method.name] is method


@pytest.mark.parametrize("make", [lambda: METHODS["pag"](2.0, "auto"), lambda: recipe.parse("pag=2,layers=auto"),
                                  lambda: recipe.from_data([{"pag": {"scale": 2, "layers": "auto"}}])[0]])
def test_automatic_layers(make):
    """The middle block where a rule says nothing else, also on a model that has a default of its own."""
    rule = make()
    assert resolve(rule, ("SD3Transformer2DModel",), 24).layers == (12,)
    assert resolve(METHODS["pag"](2.0), ("SD3Transformer2DModel",), 24).layers == (13,)
    assert resolve(METHODS["pag"](2.0), ("another",), 24).layers == (12,)
    assert recipe.from_data(recipe.to_data([rule])) == (rule,)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"rules": ' + "[" * 100 + "]" * 100 + "}", '{"rules": [], "rules": []}',
                                  '{"rules": [{"emag": {"scale": NaN}}]}', '{"rules": [{"emag": {"scale": 1, "scale": 2}}]}',
                                  '{"rules": [{"emag": {"scale": ' + "9" * 5000 + "}}]}"])
def test_bombs_and_doubts_in_a_recipe_file_are_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(emag.BadValue, match="not valid JSON") as caught:
        recipe.read_rules(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["pag=2,layers=0-999999999", "pag=2,layers=8-6", "pag=2,layers=99999999999999999999",
                                  "pag=2,layers=1+7-3", "emag=1e999"])
def test_numbers_out_of_every_range_are_refused_at_once(text):
    with pytest.raises(emag.BadValue):
        recipe.parse(text)


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e309])
def test_a_number_that_is_none_of_a_computer(number):
    with pytest.raises(emag.BadValue):
        recipe.from_data([{"emag": {"scale": number}}])
