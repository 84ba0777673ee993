"""Several conditions at once: the general sum, the published special cases, and at work in pipelines."""

import json
import math
from dataclasses import dataclass
from itertools import permutations

import pytest
import torch

from emag.core import COND, UNCOND, Conditioned
from emag.errors import BadValue
from emag.maths.predictions import convert
from emag.methods.combining.compose import Compose, Term
from emag.methods.combining.compositional import (
    compositional,
    cs_cfg,
    ds_cfg,
    fcfg,
    hg_f,
    hg_t,
    hg_v,
    instruct_g2i,
    instruct_pix2pix,
    late_negative,
    mask_cfg,
    sync_cfg,
)
from emag.methods.combining.cs_apg import CSAPG
from emag.records import recipe
from emag.schedules import Constant, Interval, Schedule
from emag.schedules.noise import NoisePower
from reference import SPACES, at_step, tensors
from several import NAMES, asked, cfg, close, guided, made, plain_sum

# the general sum


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_sum_it_says(seed):
    generator, values = torch.Generator().manual_seed(seed), made(seed)
    names, masks = list(values), (None, "box:0:0:0.4:1", "bump:0.3:0.6:0.2", "left")

    def pick(pool):
        return pool[torch.randint(len(pool), (), generator=generator)]

    terms = tuple(Term(6 * torch.rand((), generator=generator).item() - 3, pick(names), pick(names), pick(masks))
                  for _ in range(6))
    rule, step = Compose(pick(names), terms), at_step(x=values[COND], masks={"left": torch.rand(6, 6)})
    close(guided(rule, values, step), plain_sum(rule, values, step))
    wanted = asked(rule, step)
    close(guided(rule, {name: values[name] for name in (COND, *wanted)}, step), plain_sum(rule, values, step))


def test_repeated_and_reordered_terms_change_nothing():
    values = made()
    terms = (Term(3.0, "a"), Term(-1.0, "b", "a"), Term(2.0, COND, "c"))
    split = tuple(Term(term.scale / 2, term.plus, term.minus) for term in terms for _ in range(2))
    whole = guided(Compose(UNCOND, terms), values)
    close(guided(Compose(UNCOND, split), values), whole)
    for order in permutations(terms):
        close(guided(Compose(UNCOND, order), values), whole)


@pytest.mark.parametrize(("rule", "names"), [
    (Compose(UNCOND, (Term(1.0, COND),)), set()),
    (Compose(UNCOND, (Term(3.0, COND),)), {UNCOND}),
    (Compose(COND, (Term(3.0, COND),)), {UNCOND}),
    (Compose("a", (Term(1.0, COND, "a"),)), set()),
    (Compose(COND, (Term(2.0, "a", "b"),)), {"a", "b"}),
    (Compose(COND, (Term(2.0, "a", "b"), Term(2.0, "b", "a"))), set()),
    (Compose(COND, (Term(2.0, "a", "b"), Term(2.0, "b", "c"))), {"a", "c"}),
    (Compose(COND, (Term(2.0, "a", "b", "left"), Term(2.0, "b", "a", "left"))), set()),
    (Compose(COND, (Term(2.0, "a", "b", "left"), Term(2.0, "b", "a", "right"))), {"a", "b"}),
    (Compose(UNCOND, tuple(Term(1 / 3, name) for name in NAMES)), set(NAMES)),
    (Compose(UNCOND, tuple(Term(0.1, COND) for _ in range(10))), set()),
    (Compose(COND, (Term(2.0, "a", "a"),)), set()),
    (Compose(COND, (Term(0.0, "a"),)), set()),
], ids=lambda value: "+".join(sorted(value)) or "none" if isinstance(value, set) else "")
def test_what_weighs_nothing_is_not_evaluated(rule, names):
    assert asked(rule) == names
    assert {branch.name for branch in rule.weak} == names - {UNCOND}
    values = made()
    if not names:
        assert guided(rule, values) is values[COND]


def test_equal_predictions_stay_bit_for_bit():
    values = dict.fromkeys(made(), tensors(3, 1)[0])
    rule = Compose("a", (Term(7.5, COND, "b"), Term(-3.3, "c"), Term(2.0, "a", "b", "bump:0.5:0.5:0.3")))
    assert torch.equal(guided(rule, values), values[COND])


@dataclass(frozen=True)
class Counting(Schedule):
    """1, 2, 3, ... along a run, as a schedule that reads the predictions would give it."""

    name = "counting"

    def at(self, branches, step, state):
        state["at"] = state.get("at", 0.0) + self.scale
        return torch.full((len(branches[COND]),), state["at"], dtype=torch.float64)


def test_schedules_are_read_at_each_step_and_keep_their_own_state():
    values, state = made(), {}
    rule = Compose(COND, (Term(Counting(1.0), "a", "b"), Term(Counting(10.0), "b", "c"), Term(2.0, "c", COND)))
    assert asked(rule) == {"a", "b", "c", UNCOND}  # a schedule that reads predictions may read any of them
    for i in range(1, 4):
        expected = values[COND] + i * (values["a"] - values["b"]) + 10 * i * (values["b"] - values["c"])
        close(guided(rule, values, state=state), expected + 2 * (values["c"] - values[COND]))


def test_a_schedule_known_beforehand_spares_the_steps_it_leaves_out():
    rule = Compose("a", (Term(Interval(3.0, 0.2, 0.6, "progress"), COND, "a"),))
    assert [asked(rule, at_step(index=i)) for i in range(8)] == [{"a"} if i in (2, 3, 4) else set() for i in range(8)]
    assert rule.weak == (Conditioned("a"),)
    values = made()
    for i in range(8):
        expected = cfg(values, 3.0, "a") if i in (2, 3, 4) else values[COND]
        close(guided(rule, values, at_step(x=values[COND], index=i)), expected)


def test_it_is_the_same_in_every_space():
    rule = Compose("b", (Term(3.0, "a"), Term(-2.0, "c", COND, "bump:0.2:0.5:0.3")))
    values = made()
    for path, spaces in SPACES.items():
        known = guided(rule, values, at_step(path, "x0", values[COND]))
        for space in spaces:
            step = at_step(path, space, values[COND])
            at = (step.x, step.alpha, step.sigma)
            there = {name: convert(p, *at, "x0", space) for name, p in values.items()}
            close(convert(guided(rule, there, step), *at, space, "x0"), known, atol=1e-9)


def test_rows_are_independent():
    rule = Compose("a", (Term(3.0, COND, "b", "left"), Term(Counting(0.5), "c")))
    values, masks = made(), {"left": torch.rand(2, 6, 6)}
    both = guided(rule, values, at_step(x=values[COND], masks=masks))
    for i in range(2):
        row = {name: value[i:i + 1] for name, value in values.items()}
        step = at_step(x=row[COND], masks={"left": masks["left"][i:i + 1]})
        close(guided(rule, row, step), both[i:i + 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 9), (2, 4, 5, 6), (2, 3, 4, 5, 6)], ids=str)
def test_any_rank_and_dtype(shape, dtype):
    values = {name: value.to(dtype) for name, value in made(0, *shape).items()}
    mask = "frames:0:0.5" if len(shape) != 4 else "box:0:0:0.5:0.5"
    found = guided(Compose(UNCOND, (Term(3.0, "a", UNCOND, mask), Term(NoisePower(2.0), COND, "b"))), values)
    assert found.dtype == dtype and found.isfinite().all()


@pytest.mark.parametrize(("bad", "says"), [
    (lambda: Term(math.nan, "a"), "finite"), (lambda: Term(-math.inf, "a"), "finite"), (lambda: Term(None, "a"), "finite"),
    (lambda: Term("2", "a"), "a number or a schedule"), (lambda: Term(Interval(), "a"), r"Interval\(4.0\)"),
    (lambda: Term(2.0, ""), "name a branch"), (lambda: Term(2.0, "a", None), "name a branch"),
    (lambda: Term(2.0, "a", mask="box:1"), "box:x0"),
    (lambda: Compose(), "tuple of terms"), (lambda: Compose(UNCOND, [Term(2.0, "a")]), "tuple of terms"),
    (lambda: Compose(UNCOND, ("a",)), "tuple of terms"), (lambda: Compose(None, (Term(2.0, "a"),)), "name a branch"),
    (lambda: ds_cfg(peak=1.0, low=2.0), "low <= peak"), (lambda: NoisePower(2.0, -1.0), "power"),
    (lambda: NoisePower(2.0, math.nan), "power"), (lambda: instruct_g2i("a graph"), "sequence"),
    (lambda: CSAPG(-1.0), "scale"), (lambda: CSAPG(context_scale=math.nan), "context_scale"),
    (lambda: CSAPG(norm_threshold=-1.0), "norm_threshold"), (lambda: CSAPG(momentum=1.0), "momentum"),
    (lambda: CSAPG(eta=math.inf), "eta")])
def test_bad_values(bad, says):
    with pytest.raises(BadValue, match=says):
        bad()


@pytest.mark.parametrize("rule", [
    compositional({COND: 4.0, "a": -2.0, "prompt:a red hat": Constant(3.0)}), instruct_pix2pix(), instruct_g2i(("a", "b")),
    cs_cfg(), mask_cfg({"a": "box:0:0:0.5:1", "b": "rest:box:0:0:0.5:1"}), ds_cfg(), sync_cfg(), hg_v(), hg_f("a"),
    hg_t({"a": 0.5, COND: 1.5}), late_negative("prompt:blurry", 5.0), fcfg(("a",), {"b": 0.7}), CSAPG(),
    CSAPG(Interval(3.0), 2.0),
], ids=lambda rule: getattr(rule, "name", ""))
def test_recipes_hold_terms(rule):
    data = json.loads(json.dumps(recipe.to_data([rule])))
    assert recipe.from_data(data) == (rule,)
