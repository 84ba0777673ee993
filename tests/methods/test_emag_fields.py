"""EMAG's parameters in all combinations: each does something beside the others, or the combination is refused."""

import random
from dataclasses import fields
from functools import lru_cache
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import Rows
from emag.errors import BadValue
from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.emag.compat import PRESETS, Compat, compat
from reference import tensors

B, H, IMAGE, TEXT, D, STEPS = 3, 2, 5, 4, 6, 8
LAYERS = (4, 1, 3, 2)
WINDOW = emag.Window.progress(0, 0.3, 0.7)
ROWS = Rows(slice(B, 2 * B), slice(0, B), 2 * B)
OTHER = {  # further values of every parameter that works inside the branch; "compat." is a switch
    "variant": ("map", "image", "text"), "beta": (0.0, 1.0), "strength": (0.4,), "beta_time": ("equal-time",),
    "statistic": ("mae", "kl", "cosine", "entropy", "logits", "fixed"), "jitter": (0.5,), "maps": ("scaled16", "scaled8"),
    "window": (emag.Window.progress(0, 0.3, 0.7, hold=True),),
    "compat.accumulate_in": ("perturbed",), "compat.stat_lag": (1,), "compat.stat_scope": ("batch",),
    "compat.stat_against": ("updated",), "compat.query_statistic": ("mae",), "compat.ema_dtype": ("float16",),
    "compat.update_from": ("cond+uncond",), "compat.groups": ((2, 2), (1, 3)), "compat.spaced": (True,),
    "compat.renorm": ("text", "none"), "compat.text_scale": (2.0,)}
EACH = [(name, value) for name, values in OTHER.items() for value in values]
COSTS = {"rows", "resume", "every_step", "weak_row", "channels"}  # work in the engine, or on the prediction


def made(values):
    """A rule from {parameter: value}; switches are set by hand. accumulate_in comes with what it needs."""
    switches = {name.removeprefix("compat."): value for name, value in values.items() if name.startswith("compat.")}
    if switches.get("accumulate_in") == "perturbed":
        switches = {"every_step": True, "stat_lag": 1, **switches}
    own = {name: value for name, value in values.items() if not name.startswith("compat.")}
    return emag.EMAG(**{"scale": 2.0, "layers": LAYERS, "beta": 0.8, "window": WINDOW, "compat": Compat(**switches), **own})


def tried(values):
    try:
        return made(values)
    except BadValue:
        return None


@lru_cache
def call_of(step, block):
    """One attention call of both rows, drifting over the steps, each block in its own way."""
    shape = 3, 2 * B, H, IMAGE + TEXT, D
    (base,), (move,) = tensors(block, 1, *shape), tensors(100 * step + block, 1, *shape)
    return Attention(*(base + 0.5 * move), slice(0, IMAGE))


def sdpa_of(call):
    return lambda q: F.scaled_dot_product_attention(q, call.k, call.v)


@lru_cache
def shown(rule):
    """All that a rule's branch does in a run: its statistics, its picks, its attention in the weak passes."""
    torch.manual_seed(0)
    weak, streams, found = rule.perturbation, Streams([b"a", b"b", b"c"]), []
    sigmas = tuple(1 - i / STEPS for i in range(STEPS))
    state = weak.start(sigmas, streams)
    for step in range(STEPS):
        streams.next_step()
        state.begin(step)
        for block in LAYERS if state.watches else ():
            state.watch(block, call_of(step, block), ROWS)
        if weak.runs(step, sigmas):
            state.choose()
            calls = {block: call_of(step, block).rows(ROWS.cond) for block in LAYERS}
            found += [state.perturb(block, call, sdpa_of(call)).flatten() for block, call in calls.items()]
        found += [state.statistic[block] for block in LAYERS]
    return torch.cat(found)


def idle_in(values):
    """The parameters of a rule without which it does the same."""
    rule = tried(values)
    if rule is None or rule.neutral:
        return []
    return [name for name in values if not acts(rule, values, name)]


def acts(rule, values, name):
    without = tried({key: value for key, value in values.items() if key != name})
    if without is None or without.neutral or without == rule:
        return True  # it makes the rule possible, or comes with another one
    if (rule.beta in (0, 1) and name == "beta_time") or (rule.beta == 1 and name == "compat.stat_against"):
        return True  # 0 and 1 are what they are over any span, and with 1 the average stays what it was
    resolved = {one.perturbation.resolved_statistic for one in (rule, without)}
    if name == "statistic" and resolved == {rule.statistic}:
        return True  # it says what "auto" means here
    a, b = shown(rule), shown(without)
    return a.shape != b.shape or not torch.equal(a, b)


@pytest.mark.parametrize("count", [1, 2])
def test_every_parameter_acts_or_is_refused(count):
    for chosen in combinations(EACH, count):
        if len({name for name, _ in chosen}) == count:
            assert idle_in(dict(chosen)) == [], chosen


@pytest.mark.slow
def test_and_in_a_sample_of_the_whole_product():
    draw, accepted = random.Random(8), 0
    for _ in range(300):
        values = {name: draw.choice(values) for name, values in OTHER.items() if draw.random() < 0.25}
        accepted += tried(values) is not None
        assert idle_in(values) == [], values
    assert accepted > 30  # the sample says something


def test_the_product_has_every_parameter():
    own = {f.name for f in fields(emag.EMAG)} - {"scale", "layers", "every", "agree", "compat"}
    switches = {f"compat.{f.name}" for f in fields(Compat) if f.name not in COSTS}
    assert set(OTHER) == own | switches


@pytest.mark.parametrize("variant", ["query", "map", "image", "text"])
def test_jitter_alone_is_a_weak_branch(variant):
    """beta 0 makes E the live attention, and jitter puts noise on it."""
    noisy, off = (emag.EMAG(3, variant, layers=LAYERS, beta=0, jitter=jitter, window=WINDOW) for jitter in (0.5, 0))
    assert off.neutral and not noisy.neutral
    plain = emag.EMAG(3, variant, layers=LAYERS, beta=0.8, strength=0.0, window=WINDOW)
    assert not torch.allclose(shown(noisy), shown(plain), atol=1e-3)


@pytest.mark.parametrize(("off", "on"), [
    ({"beta": 0}, {"jitter": 0.1}), ({"beta": 0}, {"compat": Compat(update_from="cond+uncond")}),
    ({"strength": 0, "variant": "map"}, {"compat": Compat(text_scale=2.0)}),
    ({"beta": 0, "variant": "image"}, {"compat": Compat(text_scale=2.0)}),
    ({"beta": 0}, {"compat": "sd3-cfg"}), ({"strength": 0}, {"compat": "dit-cfg"})])
def test_off_is_off_only_where_nothing_else_acts(off, on):
    assert emag.EMAG(2.0, **off).neutral and not emag.EMAG(2.0, **off, **on).neutral
    assert emag.EMAG(1.0, **off, **on).neutral


REFUSED = [
    ({"compat": {"accumulate_in": "perturbed", "stat_lag": 1}}, "every_step"),
    ({"compat": {"accumulate_in": "perturbed", "every_step": True}}, "stat_lag=1"),
    ({"compat": {"accumulate_in": "perturbed", "stat_lag": 1, "every_step": True, "update_from": "cond+uncond"}},
     "weak pass alone"),
    ({"compat": {"weak_row": "uncond"}}, "rows='all'"), ({"compat": {"channels": 0}}, "at least 1"),
    ({"compat": {"groups": (2, 0)}, "variant": "map"}, "sizes"),
    ({"compat": {"groups": (2, 3)}, "layers": LAYERS}, "layers are 4"),
    ({"compat": {"spaced": True}}, "several groups"), ({"compat": {"groups": (4,), "spaced": True}}, "several groups"),
    ({"compat": {"groups": (2, 2)}, "statistic": "fixed"}, "picks nothing"),
    ({"compat": {"stat_lag": 1}, "statistic": "fixed"}, "picks nothing"),
    ({"compat": {"stat_against": "updated"}, "statistic": "entropy"}, "look at the average"),
    ({"compat": {"query_statistic": "mae"}, "variant": "map"}, "variant='query'"),
    ({"compat": {"renorm": "none"}}, "variant='query'"), ({"compat": {"renorm": "none"}, "variant": "map"}, "sum to 1"),
    ({"compat": {"renorm": "text", "text_scale": 2.0}, "variant": "image"}, "undoes"),
    ({"compat": {"text_scale": 2.0}}, "variant='query'"), ({"compat": {"text_scale": -1.0}, "variant": "map"}, "at least 0"),
    ({"compat": {"ema_dtype": "float16"}, "maps": "scaled8", "variant": "map"}, "both say"),
    ({"compat": {"stat_against": "updated"}, "beta": 0, "jitter": 0.1}, "always 0"),
    ({"compat": {"ema_dtype": 16}}, "ema_dtype"), ({"compat": {"lag": 1}}, "no parameter 'lag'"),
    ({"compat": "sd3-cfg", "every": 2}, "every must be 1"), ({"maps": "scaled8"}, "averaged queries are small")]


@pytest.mark.parametrize(("values", "said"), REFUSED)
def test_refused_in_one_line(values, said):
    with pytest.raises(BadValue) as error:
        emag.EMAG(2.0, **values)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("window", [
    lambda: emag.Window(150, 50, 50, "index", base=1000), lambda: emag.Window.index(7, 1, 0, hold=True),
    lambda: emag.Window.progress(0, 0.2, 1.0, hold=True), lambda: emag.Window.sigma(0.9, 0.1, 0.0, hold=True)])
def test_windows_with_an_idle_field_are_refused(window):
    with pytest.raises(BadValue):
        window()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", ["query", "map", "image"])
@pytest.mark.parametrize("statistic", ["auto", "entropy", "fixed"])
def test_presets_are_taken_whole(preset, variant, statistic):
    rule = emag.EMAG(2.0, variant, statistic=statistic, compat=preset)
    assert compat(rule.compat) is PRESETS[preset]


def test_switches_given_as_data_are_values():
    rule = emag.EMAG(2.0, compat={"stat_scope": "batch", "groups": [2, 2]})
    assert rule.compat == Compat(stat_scope="batch", groups=(2, 2)) and rule == emag.EMAG(2.0, compat=rule.compat)
    assert hash(rule) == hash(emag.EMAG(2.0, compat=rule.compat))
