"""FasterCache's feature reuse: which steps evaluate attention, what the others are given, and what it does not go with."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import emag
from emag.core import Rows
from emag.errors import BadValue, Unsupported
from emag.methods.attention.feature_reuse import ReusedState, extrapolated
from emag.schedules import Interval
from emag.testing.small_wan import experts
from reference import at_step, tensors
from spy import Counter, attention_of, blocks_of
from tiny import CASES
from two_experts import CASE, STEPS, SWITCH

B, N, C = 2, 6, 3
BOTH, ALONE, NULL = Rows(slice(B, 2 * B), slice(0, B), 2 * B), Rows.all_cond(B), Rows.all_uncond(B)


def rule_of(factor=0.5, every=2, start=0.3, layers=(1, 2)):
    return emag.FeatureReuse(factor, every, start, layers)


class Steps:
    """One block over the steps of a run of `count`: its attention gives `value(step)`, or both rows of it."""

    def __init__(self, rule, count, value=lambda i: float(i)):
        self.state, self.value, self.count = ReusedState(rule.perturbation, count), value, count
        self.evaluated = []

    def at(self, index, rows=BOTH, block=1, begin=True):
        def run(tokens):
            self.evaluated.append(index)
            return torch.full_like(tokens, self.value(index)) + torch.arange(len(tokens))[:, None, None]

        if begin:
            step = at_step(index=index, sigmas=tuple(1 - i / self.count for i in range(self.count)),
                           alphas=tuple(i / self.count for i in range(self.count)))
            self.state.reach(step)
        return self.state.around(block, torch.zeros(rows.total, N, C), run, rows)


# which steps


def test_the_published_runs():
    latte, video = rule_of(0.5, 2, 0.32).perturbation, rule_of(0.3, 3, 0.38).perturbation
    assert [i for i in range(50) if latte.reuses(i, 50)] == list(range(16, 49, 2))  # every even one
    assert [i for i in range(50) if video.reuses(i, 50)] == [i for i in range(18, 49) if i % 3]
    assert not latte.reuses(49, 50)  # the last one is whole


@pytest.mark.parametrize(("every", "start"), [(2, 0.0), (2, 0.4), (3, 0.3), (4, 0.1)])
@pytest.mark.parametrize("count", [4, 5, 12])
def test_first_and_last_steps_are_whole_and_so_is_each_nth(every, start, count):
    spared = [i for i in range(count) if rule_of(every=every, start=start).perturbation.reuses(i, count)]
    assert all(2 <= i < count - 1 and i >= start * count for i in spared)
    whole = [i for i in range(count) if i not in spared]
    between = [b - a for a, b in pairwise(whole)]
    assert max(between) <= every and (not spared or count - 1 in whole)


def test_a_run_without_a_step_to_spare_is_refused():
    with pytest.raises(BadValue, match="no step to spare among 3"):
        rule_of().perturbation.check((0.9, 0.6, 0.3))
    pipe = CASES["dit"].pipe()
    with pytest.raises(BadValue, match="no step to spare"), emag.guide(pipe, rule_of(start=1.0)):
        CASES["dit"].run(pipe)


# what they are given


def test_outputs_that_change_evenly_are_guessed_exactly():
    steps = Steps(rule_of(1.0, 4, 0.0), 5)
    made = [steps.at(i) for i in range(3)]
    whole = Steps(rule_of(start=1.0), 5)
    assert torch.equal(made[2], [whole.at(i) for i in range(3)][2])
    assert steps.evaluated == [0, 1] and whole.evaluated == [0, 1, 2]
    assert (steps.state.computed, steps.state.reused) == (2, 1) and bool(steps.state.differed)


def test_without_a_factor_it_is_the_output_before():
    steps = Steps(rule_of(0.0), 10)
    made = [steps.at(i) for i in range(10)]
    # 3, 5 and 7 are spared: the first at 0.3 of ten, then each second one
    assert steps.evaluated == [0, 1, 2, 4, 6, 8, 9]
    assert all(torch.equal(made[i], made[i - 1]) for i in (3, 5, 7))


def test_the_formula_over_steps_that_were_spared():
    steps = Steps(rule_of(0.5), 10, lambda i: float(i**2))
    made = [steps.at(i) for i in range(6)]
    # at 5 the last two that were evaluated are 4 and 2
    torch.testing.assert_close(made[5], made[4] + 0.5 * (made[4] - made[2]))


def test_a_factor_may_grow_over_the_steps():
    steps = Steps(emag.FeatureReuse(Interval(0.8, 0.5, 1.0, "progress"), 2, 0.3, (1,)), 10)
    made = [steps.at(i) for i in range(8)]
    torch.testing.assert_close(made[3], made[2] + 1.0 * (made[2] - made[1]))  # outside of its interval a schedule is 1
    torch.testing.assert_close(made[7], made[6] + 0.8 * (made[6] - made[4]))


def test_text_and_no_text_are_carried_along():
    older, newer = ((t, None) for t in tensors(1, 2, B, N, C))
    guessed = extrapolated(older, newer, 0.5)
    torch.testing.assert_close(guessed[0], 1.5 * newer[0] - 0.5 * older[0])
    assert guessed[1] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_equal_outputs_stay_in_half_precision(dtype):
    out = (torch.full((B, N, C), 6e4).to(dtype), torch.zeros(B, N, C, dtype=dtype))
    guessed = extrapolated(out, out, 0.5)
    assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(guessed, out))


# rows


def test_rows_keep_outputs_of_their_own():
    """Conditional rows alone are given the conditional rows' outputs, wherever those sat in the call."""
    steps = Steps(rule_of(0.0), 10)
    made = [steps.at(i) for i in range(3)][-1]
    assert torch.equal(steps.at(3, ALONE), made[BOTH.cond])


def test_rows_that_a_whole_step_spared_are_evaluated():
    steps = Steps(rule_of(0.0), 12, lambda i: float(10 * i))
    for i in range(4):
        steps.at(i)
    steps.at(4, ALONE), steps.at(5, ALONE)  # spared, whole: without the unconditional rows
    steps.at(6, BOTH)
    assert steps.evaluated[-1] == 6  # its unconditional rows would be guessed from older steps than the conditional ones
    assert steps.evaluated.count(4) == 0


def test_two_calls_of_a_step_are_as_one():
    one, two = Steps(rule_of(0.5), 10), Steps(rule_of(0.5), 10)
    for i in range(10):
        both = one.at(i)
        cond, null = two.at(i, ALONE), two.at(i, NULL, begin=False)
        assert (both[BOTH.uncond] - both[BOTH.cond] + B == 0).all() and torch.equal(cond, null)
    assert [i for i in one.evaluated for _ in range(2)] == two.evaluated


def test_a_step_evaluated_twice_is_refused():
    steps = Steps(rule_of(), 10)
    steps.at(0)
    with pytest.raises(Unsupported, match="more than once"):
        steps.at(0, ALONE, begin=False)


# whole runs


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux", "true-cfg"])
def test_attention_is_evaluated_as_often_as_said(name):
    """Blocks are all evaluated, counted from outside; the attention of the listed ones at whole steps alone."""
    case = CASES[name]
    pipe, steps = case.pipe(), 8
    counter = Counter(pipe.transformer, attention_of(name))
    with emag.guide(pipe, rule_of()) as run:
        case.run(pipe, num_inference_steps=steps)
    spared = sum(rule_of().perturbation.reuses(i, steps) for i in range(steps))
    rows = 2 * (2 if case.uncond else 1)
    assert spared == 2 and set(counter.blocks.values()) == {rows * steps}
    own = {at for at in range(case.depth(pipe)) if at not in (1, 2)}
    assert all(counter.attention[at] == rows * steps for at in own)
    assert run.stats.evaluations == run.stats.planned == run.stats.clean


def to_q_calls(pipe, case, *rules):
    module, seen = blocks_of(pipe)[1], []
    attention = getattr(module, "attn1", None) or module.attn
    hook = attention.to_q.register_forward_hook(lambda *args: seen.append(len(args[2])))
    with emag.guide(pipe, *rules) as run:
        case.run(pipe)
    hook.remove()
    return seen, run.stats


def test_the_attention_s_own_parts_are_not_evaluated():
    case = CASES["sd3"]
    assert to_q_calls(case.pipe(), case, rule_of())[0] == [4] * 6  # eight steps, 3 and 5 spared
    seen, stats = to_q_calls(case.pipe(), case, rule_of(), emag.CFGCache(every=3, below=1.1), emag.CFG(3.0))
    # the other half spares unconditional rows at 1, 2, 4, 5 and 7; attention is spared where all rows have fresh outputs
    assert seen == [4, 2, 2, 4, 2, 4, 2] and stats.evaluations == stats.planned < stats.clean


@pytest.mark.slow
def test_the_embedded_model_keeps_its_picture():
    pipe, more = emag.load("tiny"), {"num_inference_steps": 12, "output_type": "latent"}

    def drawn(*rules):
        with emag.guide(pipe, *rules):
            return pipe("a photo of a frog", generator=torch.Generator().manual_seed(3), **more).images

    plain, late, early = drawn(), drawn(emag.FeatureReuse(start=0.6)), drawn(emag.FeatureReuse(start=0.0))
    assert torch.equal(drawn(emag.FeatureReuse(every=1)), plain)
    assert 0 < (late - plain).norm() < (early - plain).norm() < 0.5 * plain.norm()


# refused


@pytest.mark.parametrize(("rules", "words"), [
    ((rule_of(), emag.SLG(1.5, (1,))), "kept from earlier steps"),
    ((rule_of(), emag.EMAG(1.5, layers=(3,))), "kept from earlier steps"),
    ((emag.ICG(), rule_of(), emag.CFG(3.0)), "kept from earlier steps"),
    ((rule_of(), emag.PLADIS(2.0, layers=(2,))), "works inside it"),
    ((rule_of(), emag.TokenMerge(layers=(2,))), "works inside it"),
])
def test_what_evaluates_more_or_works_inside_is_refused(rules, words):
    with pytest.raises(Unsupported, match=words), emag.guide(CASES["sd3"].pipe(), *rules):
        pass


def test_beside_what_needs_no_pass_of_its_own_it_works():
    case = CASES["sd3"]
    pipe = case.pipe()
    with emag.guide(pipe, rule_of(), emag.PLADIS(2.0, layers=(3,)), emag.CFG(3.0), emag.Momentum(0.3)) as run:
        assert case.run(pipe).isfinite().all()
    assert run.stats.evaluations == run.stats.planned


def test_an_energy_that_evaluates_the_network_once_more_is_refused_before_it():
    pipe = emag.load("tiny")
    cfg, energy = emag.CFG(2.5), emag.Energy("colour:0.9:0.1:0.1", 0.02)
    with emag.guide(pipe, rule_of(start=0.3), cfg, energy):  # of the step's own predictions: nothing is evaluated again
        pipe("a photo of a frog", num_inference_steps=8, output_type="latent")
    seen = Counter(pipe.transformer, "attn")
    with pytest.raises(Unsupported, match="once more"), emag.guide(pipe, rule_of(start=0.3), cfg, replace(energy, recur=2)):
        pipe("a photo of a frog", num_inference_steps=8)
    assert not seen.blocks


@pytest.mark.parametrize("wrong", [{"factor": -0.1}, {"factor": emag.MAMBOG(2.0)}, {"every": 0}, {"start": 1.5},
                                   {"layers": ()}])
def test_values_are_checked(wrong):
    with pytest.raises(BadValue):
        rule_of(**wrong)


def test_another_network_begins_afresh():
    """Wan 2.2: nothing that one expert made is served in the place of the other's."""
    pipe = experts()
    counts = [[], []]
    for net, seen in zip((pipe.transformer, pipe.transformer_2), counts):
        net.blocks[1].attn1.to_q.register_forward_hook(lambda module, args, out, seen=seen: seen.append(len(out)))
    with emag.guide(pipe, rule_of(0.5, 2, 0.0)) as run:
        made = CASE.run(pipe)
    # steps 0 to 3 and 4 to 7, two calls each of two rows: 2 and 6 are spared, and 4 is not though its turn is
    assert counts == [[2] * 2 * (SWITCH - 1), [2] * 2 * (STEPS - SWITCH - 1)]
    assert run.stats.evaluations == run.stats.planned == run.stats.clean and made.isfinite().all()
