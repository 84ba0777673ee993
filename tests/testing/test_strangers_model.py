"""A stranger adds a model: the code of docs/adding-a-model.md, run as it stands, around a network that is not shipped.

It is guided as any other; and an entry that is wrong is told, or seen, as the page says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import emag
from emag import families
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from emag.testing.outside import changes, counted, snapshot
from emag.testing.small import sd3_call
from spy import network_outputs

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"
TABLES = families.BACKBONES, families.HOSTS, families.DEFAULTS
WINDOW = emag.Window.progress(0, 0.2, 0.9)


@pytest.fixture(scope="module")
def page():
    """The names that the page's code makes; what it registers is forgotten at the end."""
    before, names = [dict(table) for table in TABLES], {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(code, names)
    yield names
    for table, kept in zip(TABLES, before):
        table.clear()
        table.update(kept)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def run(page, *rules, seeds=(8, 9), **more):
    with emag.guide(page["pipe"], *rules) as handle:
        return page["pipe"](**sd3_call(seeds, **more)).images, handle.latest


def test_the_defaults_are_the_strangers(page):
    with emag.guide(page["pipe"], emag.EMAG()) as handle:
        (rule,) = handle.resolved
    own = page["family"].defaults["MyTransformer"]["emag"].values
    assert rule.scale == own["scale"] and rule.layers == (1,) and rule.window == own["window"]
    assert page["run"].stats.evaluations == page["run"].stats.planned > page["run"].stats.clean


def test_a_name_that_is_known_is_refused(page):
    with pytest.raises(emag.BadValue, match="already known"):
        emag.register(page["family"])


METHODS = {"pag": C["pag"](1.5, layers=(1,)), "seg": C["seg"](1.5, layers=(1,), sigma=1.0),
           "slg": C["slg"](1.5, layers=(1,)), "tsg": C["tsg"](1.5),
           "nag": C["nag"](3.0, alpha=0.5, sigma_end=0.1, layers=(1,))}


@pytest.mark.parametrize("rule", METHODS.values(), ids=METHODS)
def test_methods_act_on_it_and_are_counted(page, rule):
    plain, _ = run(page)
    with counted(page["pipe"]) as rows:
        made, stats = run(page, rule)
    assert stats.evaluations == stats.planned == rows() / 2 and not torch.allclose(made, plain, atol=1e-3)


@pytest.mark.parametrize("block", range(4))
def test_a_resumed_pass_is_the_full_one(page, block):
    weak = []
    for resume in (True, False):
        with network_outputs(page["pipe"]) as seen:
            run(page, EMAG(layers=(block,), compat=Compat(resume=resume)))
        weak.append(seen)
    for resumed, full in zip(*weak, strict=True):
        assert (resumed - full).abs().max() < 2e-4 * full.abs().max()


def test_an_image_is_the_same_alone_and_nothing_stays(page):
    plain, _ = run(page)
    before = snapshot(page["pipe"])
    both, _ = run(page, EMAG(), emag.CFG(3.0))
    alone, _ = run(page, EMAG(), emag.CFG(3.0), seeds=(9,))
    assert changes(before, snapshot(page["pipe"]), own=False) == []
    torch.testing.assert_close(both[1:], alone, atol=2e-4 * float(alone.abs().max()), rtol=1e-4)
    assert torch.equal(run(page)[0], plain)


# what usually goes wrong


def register(page, monkeypatch, network=None, stack=None, pipeline=None):
    """The page's entry with some of its fields changed."""
    entry, host = page["family"].networks[0], page["family"].pipelines[0]
    if stack:
        entry = replace(entry, stacks=(replace(entry.stacks[0], **stack),))
    monkeypatch.setitem(families.BACKBONES, entry.name, replace(entry, **network or {}))
    monkeypatch.setitem(families.HOSTS, host.name, replace(host, **pipeline or {}))


TOLD = {
    "list": ({"stack": {"name": "blocks"}}, "MyTransformer has no block list 'blocks'"),
    "attention": ({"stack": {"attention": "attention"}}, "has no attention module 'attention'"),
    "time": ({"network": {"time_scale": 1000.0}}, "called at timestep 1e.06 where the scheduler is at 1000"),
    "tokens": ({"stack": {"tokens": ("image",)}}, "made 0 calls of scaled_dot_product_attention with 16 queries"),
}


@pytest.mark.parametrize("wrong", TOLD)
def test_a_wrong_entry_is_told(page, monkeypatch, wrong):
    entry, says = TOLD[wrong]
    register(page, monkeypatch, **entry)
    with pytest.raises(emag.EmagError, match=says) as error:
        run(page, EMAG())
    assert "\n" not in str(error.value)


STOPPED = {
    "rows": {"network": {"per_row": ("hidden_states", "encoder_hidden_states", "timestep")}},
    "returns": {"stack": {"returns": ("hidden_states", "encoder_hidden_states")}},
    "two calls": {"pipeline": {"layout": "calls"}},
}


@pytest.mark.parametrize("wrong", STOPPED)
def test_no_image_is_made_by_a_wrong_entry(page, monkeypatch, wrong):
    register(page, monkeypatch, **STOPPED[wrong])
    before = snapshot(page["pipe"])
    with pytest.raises((emag.EmagError, RuntimeError, AttributeError)):
        run(page, EMAG())
    assert changes(before, snapshot(page["pipe"]), own=False) == []
