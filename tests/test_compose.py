"""Several conditions at once: the general sum, the published special cases, and at work in pipelines."""

import json
import math
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch

import emag
from emag import recipe
from emag.errors import BadValue
from emag.guidance import COND, UNCOND, combine, needs_null
from emag.layout import unpack
from emag.masks import evaluate
from emag.perturbations.base import Given
from emag.predictions import convert
from emag.rules.compose import Compose, Term
from emag.rules.conditions import (
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
    phase_negative,
    sync_cfg,
)
from emag.rules.cs_apg import CSAPG
from emag.rules.phase_negative import PhaseNegative
from emag.rules.rescale import Rescale
from emag.schedules import Constant, Interval, Schedule
from emag.schedules.noise import NoisePower
from exact import Gaussian
from reference import SPACES, at_step, scheduler_steps, tensors
from spy import Counter, attention_of
from tiny import CASES, noise

NAMES = ("a", "b", "c")


def close(a, b, **more):
    torch.testing.assert_close(a, b, **{"atol": 1e-11, "rtol": 1e-11, **more})


def keyed(values):
    """Predictions by name as a rule gets them."""
    return {name if name in (COND, UNCOND) else Given(name): value for name, value in values.items()}


def made(seed=0, *shape):
    """One prediction for each of "cond", "uncond", "a", "b" and "c", in float64."""
    names = (COND, UNCOND, *NAMES)
    return dict(zip(names, (t.double() for t in tensors(seed, len(names), *(shape or (2, 4, 6, 6))))))


def guided(rule, values, step=None, state=None):
    step = step or at_step(x=values[COND])
    return combine((rule,), values[COND], keyed(values), step, [{} if state is None else state])


def cfg(values, scale, weak=UNCOND, strong=COND):
    return values[weak] + scale * (values[strong] - values[weak])


def asked(rule, step=None):
    """Names of the branches a rule asks for at a step, UNCOND among them."""
    step = step or at_step()
    return {branch.name for branch in rule.branches(step)} | ({UNCOND} if rule.reads_null(step) else set())


# the general sum


def plain_sum(rule, values, step):
    """base + sum_j w_j m_j (plus_j - minus_j), written out."""
    total = values[rule.base]
    for term in rule.terms:
        mask = 1 if term.mask is None else evaluate(term.mask, total, step)
        total = total + term.scale * mask * (values[term.plus] - values[term.minus])
    return total


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
    assert rule.weak == (Given("a"),)
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


# M30 to M38


def test_pix2pix_is_cfg_on_both_conditions_where_the_scales_agree():
    values = made()
    close(guided(instruct_pix2pix("a", 3.0, 3.0), values), cfg(values, 3.0))
    assert asked(instruct_pix2pix("a", 3.0, 3.0)) == {UNCOND}
    assert guided(instruct_pix2pix("a", 1.0, 1.0), values) is values[COND]
    close(guided(instruct_pix2pix("a", 0.0, 1.5), values), cfg(values, 1.5, strong="a"))
    assert asked(instruct_pix2pix("a")) == {UNCOND, "a"}
    expected = values[UNCOND] + 1.5 * (values["a"] - values[UNCOND]) + 7.5 * (values[COND] - values["a"])
    close(guided(instruct_pix2pix("a"), values), expected)


def test_compositional_of_one_is_cfg():
    values = made()
    close(guided(compositional({COND: 3.0}), values), cfg(values, 3.0))
    same = {**values, "a": values[COND], "b": values[COND]}
    close(guided(compositional({"a": 1.5, "b": 1.5}), same), cfg(values, 3.0))
    close(guided(compositional({"a": 2.0, "b": -1.0, COND: 3.0}), values),
          values[UNCOND] + 2 * (values["a"] - values[UNCOND]) - (values["b"] - values[UNCOND])
          + 3 * (values[COND] - values[UNCOND]))


def test_compositional_multiplies_densities():
    """p(x) prod_i (p(x | c_i) / p(x))^w_i for Gaussians: the score of the product is the composed one."""
    weights, x, alpha, sigma = {"a": 1.2, "b": -0.3, "c": 0.8}, tensors(5, 1, 3, 4)[0].double(), 0.8, 0.6
    generator, data = torch.Generator().manual_seed(2), {}
    for name in (UNCOND, *weights):
        root, mean = torch.randn(4, 4, generator=generator).double(), torch.randn(4, generator=generator).double()
        data[name] = Gaussian(mean, root @ root.T + torch.eye(4).double())
    values = {name: one.predict(x, alpha, sigma, "epsilon") for name, one in data.items()}
    at = {name: one.marginal(alpha, sigma) for name, one in data.items()}
    share = {UNCOND: 1 - sum(weights.values()), **weights}
    precision = sum(share[name] * torch.linalg.inv(one.matrix) for name, one in at.items())
    linear = sum(share[name] * torch.linalg.solve(one.matrix, one.mean) for name, one in at.items())
    score = linear - x @ precision
    step = at_step(x=x)
    close(guided(compositional(weights), {COND: values["a"], **values}, step), -sigma * score, atol=1e-9)


def test_graphs():
    values = made()
    same = {**values, "b": values["a"], "c": values["a"]}
    close(guided(instruct_g2i({"a": 4.0}, 4.0), values), cfg(values, 4.0, strong="a"))
    close(guided(instruct_g2i(dict.fromkeys(NAMES, 1.0), 4.0), same), guided(instruct_g2i({"a": 3.0}, 4.0), values))
    close(guided(instruct_g2i({"a": 0.0}, 4.0), values), cfg(values, 4.0))
    assert asked(instruct_g2i(("a", "b"))) == {UNCOND, "a", "b"}
    expected = cfg(values, 7.5) + 1.5 * (values["a"] - values[COND]) + 1.5 * (values["b"] - values[COND])
    close(guided(instruct_g2i(("a", "b")), values), expected)


def test_graphs_are_rescaled_against_the_text_prediction():
    values = made()
    step = at_step(x=values[COND])
    found = combine((instruct_g2i(("a",)), Rescale(1.0)), values[COND], keyed(values), step, [{}, {}])
    close(found.flatten(1).std(1), values[COND].flatten(1).std(1))


FREE = {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}


@pytest.mark.parametrize(("text", "context"), [(5.0, 4.0), (2.0, 1.0), (1.0, 3.0), (0.5, 0.0)])
def test_context_style_forms_differ_by_one_in_the_context_scale(text, context):
    values = made()
    close(guided(CSAPG(text, context, "a", **FREE), values), guided(cs_cfg("a", text, context - 1), values))


def test_context_style_without_context_is_cfg_on_the_text():
    values = {**made(), "a": made()[UNCOND]}
    close(guided(cs_cfg("a", 3.0, 2.0), values), cfg(values, 3.0))
    close(guided(CSAPG(3.0, 2.0, "a", **FREE), values), cfg(values, 3.0))


def test_both_context_style_forms_have_their_neutral_scales():
    values = made()
    for rule in (cs_cfg("a", 1.0, 0.0), CSAPG(1.0, 1.0, "a")):
        assert guided(rule, values) is values[COND] and asked(rule) == set() and rule.weak == ()
    assert asked(CSAPG(1.0, 2.0, "a")) == {"a", UNCOND} and asked(CSAPG(2.0, 1.0, "a")) == {"a"}
    close(guided(CSAPG(2.0, 1.0, "a", **FREE), values), cfg(values, 2.0, "a"))


def test_context_style_projected_against_its_formula_over_three_steps():
    momentum, cap, state, sums = -0.5, 3.0, {}, {}
    rule = CSAPG(5.0, 4.0, "a", eta=0.25, norm_threshold=cap, momentum=momentum)
    for seed in range(3):
        values = made(seed)
        p, expected = values[COND], values[COND].clone()
        for name, scale, shift in (("text", 5.0, p - values["a"]), ("context", 4.0, values["a"] - values[UNCOND])):
            sums[name] = shift + momentum * sums.get(name, 0)
            for i in range(2):
                total = sums[name][i] * min(1, cap / sums[name][i].norm())
                parallel = (total * p[i]).sum() / (p[i] ** 2).sum() * p[i]
                expected[i] += (scale - 1) * (total - parallel + 0.25 * parallel)
        close(guided(rule, values, state=state), expected)


def test_the_projected_form_moves_across_the_prediction():
    values = made()
    found = guided(CSAPG(5.0, 4.0, "a"), values)
    dots = ((found - values[COND]) * values[COND]).flatten(1).sum(1)
    close(dots, torch.zeros_like(dots), atol=1e-9)


def test_masks_choose_between_conditions():
    values, left = made(), "box:0:0:0.5:1"
    regions = {"a": left, "b": f"rest:{left}"}
    found = guided(mask_cfg(regions, 1.0), values)
    close(found[..., :3], values["a"][..., :3])
    close(found[..., 3:], values["b"][..., 3:])
    strong = guided(mask_cfg(regions), values)
    close(strong[..., :3], cfg(values, 5.0, strong="a")[..., :3])
    moved = guided(mask_cfg(regions), {**values, "b": made(7)["b"]})
    assert torch.equal(moved[..., :3], strong[..., :3]) and not torch.allclose(moved[..., 3:], strong[..., 3:])
    close(guided(mask_cfg({COND: "box:0:0:1:1"}, 3.0), values), cfg(values, 3.0))


def test_a_masked_term_is_zero_outside_its_mask():
    values = made()
    more = Compose(UNCOND, (Term(3.0, COND), Term(2.0, "a", "b", "box:0:0.5:1:1")))
    found, plain = guided(more, values), guided(Compose(UNCOND, (Term(3.0, COND),)), values)
    assert torch.equal(found[:, :, :3], plain[:, :, :3])
    close(found[:, :, 3:], (plain + 2 * (values["a"] - values["b"]))[:, :, 3:])


def test_ds_cfg_is_a_bump_that_fades_with_the_noise():
    values = made()
    close(guided(ds_cfg(peak=3.0, low=3.0, power=0.0), values), cfg(values, 3.0))
    close(guided(ds_cfg(width=1e6, peak=3.0, low=1.0, power=0.0), values), cfg(values, 3.0), atol=1e-9)

    def share(time):
        step = at_step(x=values[COND], time=time)
        moved = guided(ds_cfg((0.5, 0.5), 0.2, 3.0, 1.0), values, step) - values[UNCOND]
        return (moved / (values[COND] - values[UNCOND]))[0, 0]

    high, low = share(1.0), share(0.25)
    close(low, high * 0.25**1.5)
    assert high.argmax() in (14, 15, 20, 21) and high.min() > 1 and 2.5 < high.max() < 3
    close(share(0.0), torch.zeros(6, 6).double())


def test_sync_cfg():
    values = made()
    assert guided(sync_cfg("a", 1.0), values) is values[COND] and asked(sync_cfg("a", 1.0)) == set()
    close(guided(sync_cfg("a", 3.0), values), cfg(values, 3.0, "a"))
    assert asked(sync_cfg("a")) == {"a"}
    same = {**values, "a": values[COND]}
    for scale in (0.0, 2.0, 7.5):
        assert torch.equal(guided(sync_cfg("a", scale), same), values[COND])


def test_history_guidance():
    values = made()
    close(guided(hg_v(4.0), values), 4 * values[COND] - 3 * values[UNCOND])
    assert guided(hg_v(1.0), values) is values[COND] and guided(hg_f("a", 1.0), values) is values[COND]
    close(guided(hg_f(COND, 4.0), values), guided(hg_v(4.0), values))
    assert guided(hg_f(UNCOND, 4.0), values) is values[COND] and asked(hg_f(UNCOND, 4.0)) == set()
    close(guided(hg_f("a", 4.0), values), values[COND] + 3 * (values["a"] - values[UNCOND]))
    assert asked(hg_f("a")) == {"a", UNCOND} and asked(hg_v()) == {UNCOND}
    close(guided(hg_t({"a": 0.5, "b": 1.5}), values),
          values[UNCOND] + 0.5 * (values["a"] - values[UNCOND]) + 1.5 * (values["b"] - values[UNCOND]))


@pytest.mark.parametrize("rule", [hg_v(4.0), hg_f("a", 4.0), hg_t({"a": 0.3, "b": 2.0}), instruct_g2i(("a", "b")),
                                  late_negative("a")], ids=str)
def test_merged_weights_sum_to_one(rule):
    """Shifting every prediction by one tensor shifts the result by it."""
    values, shift = made(), tensors(42, 1)[0].double()
    close(guided(rule, {name: value + shift for name, value in values.items()}), guided(rule, values) + shift)


def test_a_negative_prompt_acts_in_its_phase_only():
    rule, values = late_negative("a", 4.0, 0.25, 0.75), made()
    for i in range(8):
        step = at_step(x=values[COND], index=i)
        weak = "a" if 2 <= i < 6 else UNCOND
        assert asked(rule, step) == {weak}
        close(guided(rule, values, step), cfg(values, 4.0, weak))
        assert needs_null((rule,), step, [{}]) == (weak == UNCOND)
    assert guided(late_negative("a", 1.0), values) is values[COND]
    own = late_negative(UNCOND, 4.0, 0.25, 0.75, null="prompt:")
    assert [asked(own, at_step(index=i)) for i in (0, 2, 6)] == [{"prompt:"}, {UNCOND}, {"prompt:"}]


def test_a_phase_aware_negative_is_louder_in_the_first_steps():
    """EchoMimicV3: u of the negative prompt times 1.5 in the steps 0 to 2; then three branches with two scales."""
    loud, mix = phase_negative("a")
    values, text = made(), {"states": tensors(5, 1)[0]}
    close(guided(mix, values), values[UNCOND] + 4 * (values["a"] - values[UNCOND]) + 2.9 * (values[COND] - values["a"]))
    close(guided(phase_negative("a", 3.0, 3.0, 1.0)[1], values), cfg(values, 3.0))
    for accumulate, factors in ((False, [1.5, 1.5, 1.5, 1, 1]), (True, [1.5, 2.25, 3.375, 3.375, 3.375])):
        rule = replace(loud, accumulate=accumulate)
        for i, factor in enumerate(factors):
            assert rule.condition(text, at_step(index=i)) is text
            null = rule.condition(text, at_step(index=i, branch=UNCOND))
            assert torch.equal(null["states"], text["states"] * factor) and (null is text) == (factor == 1)
    assert phase_negative(factor=1.0)[0].neutral and not loud.neutral
    for wrong in ({"scale": math.inf}, {"scale": "2"}, {"steps": -1}, {"steps": 1.5}):
        with pytest.raises(BadValue, match=f"phase-negative {next(iter(wrong))}"):
            PhaseNegative(**wrong)


@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_a_phase_aware_negative_at_work(name):
    """As a run with a negative prompt whose embeddings are louder, while all its steps are scaled."""
    case, pipe = CASES[name], CASES[name].pipe()
    loud = {key: 1.5 * value for key, value in case.call((8, 9)).items()
            if key.startswith("negative") and isinstance(value, torch.Tensor) and value.is_floating_point()}
    for last, same in ((1, True), (0, False)):
        with emag.guide(pipe, PhaseNegative(1.5, last)):
            found = case.run(pipe, num_inference_steps=2)
        there, plain = (case.run(pipe, num_inference_steps=2, **more) for more in (loud, {}))
        far = [(found - other).abs().max() / plain.abs().max() for other in (there, plain)]
        assert (far[0] < 1e-3) == same and far[1] > 2e-3


def test_a_phase_aware_negative_needs_a_negative():
    pipe = CASES["flux"].pipe()
    with pytest.raises(BadValue, match="phase-negative is about the unconditional"), emag.guide(pipe, PhaseNegative()):
        CASES["flux"].run(pipe)
    with pytest.raises(BadValue, match="phase-negative is about the unconditional prediction"):
        emag.guided(lambda x, t, c: x * c, PhaseNegative(), path=(1.0, 0.0), conditions={"cond": torch.ones(1, 2)})


def test_groups_of_attributes():
    values = made()
    close(guided(fcfg((COND,)), values), cfg(values, 2.5))
    close(guided(fcfg(("a", "b"), ("c",)), values), guided(compositional({"a": 2.5, "b": 2.5, "c": 1.0}), values))
    close(guided(fcfg({"a": 3.0}, {"b": 0.5}), values), guided(compositional({"a": 3.0, "b": 0.5}), values))


IS_CFG = {
    "cfg": emag.CFG(3.0), "apg": emag.APG(3.0, eta=1.0, norm_threshold=0.0, momentum=0.0),
    "pix2pix": instruct_pix2pix("a", 3.0, 3.0), "compositional": compositional({COND: 3.0}),
    "mask": mask_cfg({COND: "box:0:0:1:1"}, 3.0),
    "history": hg_v(3.0), "history, not noised": hg_f(COND, 3.0), "groups": fcfg({COND: 3.0}), "sync": sync_cfg(UNCOND, 3.0),
    "ds": ds_cfg(peak=3.0, low=3.0, power=0.0), "graph": instruct_g2i({COND: 1.5}, 3.0), "context": cs_cfg(UNCOND, 3.0, 2.0),
    "phase": late_negative(UNCOND, 3.0, 0.3, 0.8)}


@pytest.mark.parametrize("name", IS_CFG)
@pytest.mark.parametrize(("path", "space"), [(path, space) for path, spaces in SPACES.items() for space in spaces])
def test_all_of_them_contain_cfg(name, path, space):
    values = made()
    close(guided(IS_CFG[name], values, at_step(path, space, values[COND])), cfg(values, 3.0), atol=1e-9)


# at work in pipelines

PIPES = ("sd3", "dit", "pixart", "true-cfg")


def same(a, b):
    """Equal within 1e-4 of the size of the latents."""
    torch.testing.assert_close(a, b, atol=1e-4 * max(1.0, float(b.abs().max())), rtol=1e-4)


def tensors_of(case, seed):
    """A further condition of a pipeline of this kind, for one image."""
    if case == "dit":
        return {"class_labels": torch.tensor([seed % 1000])}
    if case == "pixart":
        return {"encoder_hidden_states": noise(seed, 1, 5, 12), "encoder_attention_mask": torch.ones(1, 5)}
    pooled = {"pooled_projections": noise(seed + 1, 1, 10)} if case in ("sd3", "true-cfg") else {}
    return {"encoder_hidden_states": noise(seed, 1, 5, 12), **pooled}


def alone(case, condition, scale=1.0):
    """What the scheduler gets at the first step of a pipeline whose own condition this is, for both images."""
    named = {"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds",
             "encoder_attention_mask": "prompt_attention_mask"}
    if case == "dit":
        own = {"class_labels": condition["class_labels"].tolist() * 2}
    else:
        own = {named[key]: torch.cat([value, value]) for key, value in condition.items()}
    return run(case, (emag.CFG(scale),), {}, **own)[1][0].prediction


def given(case):
    return {name: tensors_of(case, 300 + 7 * i) for i, name in enumerate(NAMES)}


def run(case, rules, conditions=None, masks=None, **more):
    """Latents under `rules`, what the scheduler got, the finished run, and blocks evaluated as counted from outside."""
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, *rules, conditions=given(case) if conditions is None else conditions, masks=masks) as handle:
        with scheduler_steps(pipe) as seen:
            image = CASES[case].run(pipe, **more)
    return image, seen, handle.stats, sum(counter.blocks.values())


@pytest.mark.parametrize("case", PIPES)
@pytest.mark.parametrize(("rule", "rows"), [
    (compositional({COND: 3.0, "a": 2.0, "b": -1.0}), [4] * 8), (Compose(COND, (Term(2.0, "a", "b"),)), [3] * 8),
    (instruct_pix2pix("a", 3.0, 3.0), [2] * 8), (instruct_pix2pix("a", 1.0, 1.0), [1] * 8),
    (late_negative("a", 4.0, 0.25, 0.75), [2] * 8),
    (Compose("a", (Term(Interval(3.0, 0.25, 0.5, "progress"), COND, "a"),)), [1, 1, 2, 2, 1, 1, 1, 1]),
    (CSAPG(3.0, 2.0, "a"), [3] * 8)], ids=["three", "two", "merged", "off", "phase", "interval", "projected"])
def test_one_evaluation_for_each_condition_that_weighs(case, rule, rows):
    images, _, stats, counted = run(case, (rule,))
    assert counted == 2 * CASES[case].depth(CASES[case].pipe()) * sum(rows)
    assert images.isfinite().all() and stats.evaluations == stats.planned == counted // 2


@pytest.mark.parametrize("case", PIPES)
def test_a_pipeline_makes_what_the_formula_says(case):
    """The first step's prediction, out of those that the pipeline makes with each condition as its own."""
    one = {name: alone(case, condition) for name, condition in given(case).items()}
    one[COND], one[UNCOND] = (run(case, (emag.CFG(scale),))[1][0].prediction for scale in (1.0, 0.0))
    for rule in (compositional({COND: 3.0, "a": 2.0, "b": -1.5}), Compose("a", (Term(2.0, "b", "c"), Term(1.5, "c")))):
        found = run(case, (rule,))[1][0].prediction
        expected = plain_sum(rule, one, at_step(x=one[COND]))
        torch.testing.assert_close(found, expected.to(found.dtype), atol=2e-4, rtol=2e-4)
        assert not torch.allclose(found, one[COND], atol=0.05)


@pytest.mark.parametrize("case", PIPES)
def test_a_weak_branch_beside_a_condition_is_what_it_is_alone(case):
    """A further condition leaves no trace in what EMAG resumes from or averages."""
    weak, few = emag.EMAG(2.0, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9)), {"num_inference_steps": 5}
    cfg, more = Term(2.0, COND), Term(1e-9, "a", "b")
    for order in (1, -1):
        plain, beside = ((weak, Compose(UNCOND, terms))[::order] for terms in ((cfg,), (cfg, more)))
        same(run(case, beside, **few)[0], run(case, plain, **few)[0])


@pytest.mark.parametrize("case", PIPES)
def test_a_row_is_the_image_made_alone(case):
    rules, few = (compositional({COND: 2.0, "a": 1.0, "b": -0.5}),), {"num_inference_steps": 4}
    both = run(case, rules, seeds=(8, 9), **few)[0]
    for i, seed in enumerate((8, 9)):
        alone = run(case, rules, seeds=(seed,), **few)[0]
        same(both[i:i + 1], alone)


@pytest.mark.parametrize("case", PIPES)
def test_each_image_has_its_own_condition(case):
    rules, few = (compositional({COND: 2.0, "a": 1.0}),), {"num_inference_steps": 4}
    one, two = tensors_of(case, 300), tensors_of(case, 400)
    own = {"a": {name: torch.cat([one[name], two[name]]) for name in one}}
    both = run(case, rules, own, seeds=(8, 9), **few)[0]
    for i, (seed, condition) in enumerate(((8, one), (9, two))):
        alone = run(case, rules, {"a": condition}, seeds=(seed,), **few)[0]
        same(both[i:i + 1], alone)


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_masks_hold_in_a_pipeline(case):
    """On the first step the guided prediction differs from the one without the masked term in the masked half only."""
    base, more = (Term(3.0, COND),), Term(2.0, "a", UNCOND, "left*box:0:0:1:1")
    masks = {"left": torch.tensor([[1.0, 0.0]])}
    plain = run(case, (Compose(UNCOND, base),))[1][0].prediction
    masked = run(case, (Compose(UNCOND, (*base, more)),), masks=masks)[1][0].prediction
    step = at_step(grid=(4, 4, 2) if case == "true-cfg" else None)
    apart = unpack(masked - plain, step)
    half = apart.shape[-1] // 2
    assert (apart[..., half:] == 0).all() and apart[..., :half].abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize("case", PIPES)
def test_the_images_own_condition_is_no_further_condition(case):
    call = CASES[case].call((8, 9))
    own = {"class_labels": torch.tensor(call["class_labels"])} if case == "dit" else {
        "encoder_hidden_states": call["prompt_embeds"]}
    if case in ("sd3", "true-cfg"):
        own["pooled_projections"] = call["pooled_prompt_embeds"]
    if case == "pixart":
        own["encoder_attention_mask"] = call["prompt_attention_mask"]
    with pytest.raises(emag.NoEffect, match="'a' is the one the images are made with"):
        run(case, (compositional({COND: 2.0, "a": 2.0}),), {"a": own})


def test_it_takes_the_running_prediction():
    """A weak rule before it moves "cond", and nothing else."""
    weak = emag.EMAG(3.0, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9))
    composed, plain = run("sd3", (weak, compositional({COND: 3.0})))[0], run("sd3", (weak, emag.CFG(3.0)))[0]
    torch.testing.assert_close(composed, plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(composed, run("sd3", (compositional({COND: 3.0}),))[0], atol=1e-3)
