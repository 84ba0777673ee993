"""Several methods in one guidance: the formula by hand from the branches that were evaluated, at the cost the plan says."""

import pytest
import torch

import emag
from emag.methods import METHODS
from reference import scheduler_steps as steps_seen
from spy import Counter, attention_of, network_outputs, scheduler_steps
from tiny import CASES

EVERY = emag.Window.progress(0, 0, 1)  # averages from the first step, applies from the second
PAG = METHODS["pag"](2.0, (1,))
EMAG = emag.EMAG(1.5, layers=(1, 2), beta=0.9, window=EVERY)
LATE = emag.EMAG(1.5, layers=(2,), beta=0.9, window=EVERY)
B = 2


def recorded(name, *rules, **more):
    """Per step, the network's answers in order, and what the scheduler got; the finished run and counts from outside."""
    case = CASES[name]
    pipe = case.pipe()
    counter = Counter(pipe.transformer, attention_of(name))
    with network_outputs(pipe) as answers, scheduler_steps(pipe) as given, emag.guide(pipe, *rules, **more) as run:
        case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counter.blocks.values()) // B
    return answers, given, run.stats


def halves(answer):
    """Unconditional and conditional rows of a doubled SD3 batch."""
    return answer[:B], answer[B:]


def apg(p, u, x, sigma, scale, threshold):
    """One APG step without momentum, in x0, for a flow network."""
    c0, u0 = x - sigma * p, x - sigma * u
    difference = (c0 - u0).double()
    norm = difference.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    difference = difference * (threshold / norm).clamp(max=1)
    onto = c0.double()
    share = ((difference * onto).flatten(1).sum(1) / onto.square().flatten(1).sum(1)).view(-1, 1, 1, 1)
    return p - ((scale - 1) * (difference - share * onto) / sigma).to(p.dtype)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=3e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("emag_rule", [EMAG, LATE], ids=["batched", "apart"])
def test_pag_emag_and_cfg(emag_rule):
    """Both resume at block 1: one batched pass; or at 1 and 2: two."""
    answers, given, stats = recorded("sd3", PAG, emag_rule, emag.CFG(3.0))
    assert stats.evaluations == 8 * (2 * 4 + 3) + 7 * (3 if emag_rule is EMAG else 2)
    answers = answers[2:]  # the first step averages only
    for prediction in given[1:]:
        u, c = halves(answers.pop(0))
        if emag_rule is EMAG:
            weak_pag, weak_emag = answers.pop(0).chunk(2)
        else:
            weak_pag, weak_emag = answers.pop(0), answers.pop(0)
        p = c + 1.0 * (c - weak_pag) + 0.5 * (c - weak_emag)
        close(prediction, u + 3.0 * (p - u))
    assert not answers


def test_weak_rules_commute():
    one = recorded("sd3", PAG, EMAG, emag.CFG(3.0))[1]
    other = recorded("sd3", EMAG, PAG, emag.CFG(3.0))[1]
    for a, b in zip(one, other):
        close(a, b)


def test_pag_emag_and_apg():
    answers, given, _ = recorded("sd3", PAG, LATE, emag.APG(4.0, 0.0, 5.0, 0.0))
    pipe = CASES["sd3"].pipe()
    with steps_seen(pipe) as seen, emag.guide(pipe, PAG, LATE, emag.APG(4.0, 0.0, 5.0, 0.0)):
        CASES["sd3"].run(pipe)
    answers = answers[2:]
    for prediction, step in zip(given[1:], seen[1:]):
        u, c = halves(answers.pop(0))
        p = c + (c - answers.pop(0)) + 0.5 * (c - answers.pop(0))
        close(prediction, apg(p, u, step.x, float(step.t) / 1000, 4.0, 5.0))


def test_slg_under_cfg_zero_star():
    """SLG pushes, CFG-Zero* rescales the unconditional prediction, CFG joins them, zero-init blanks the first step."""
    slg = METHODS["slg"](2.0, (1, 2))
    rules = (slg, METHODS["zero-star"](), emag.CFG(3.0), METHODS["zero-init"](steps=1))
    answers, given, stats = recorded("sd3", *rules)
    assert stats.evaluations == 8 * (2 * 4 + 1)
    assert not given[0].any()
    answers = answers[2:]
    for prediction in given[1:]:
        (u, c), weak = halves(answers.pop(0)), answers.pop(0)
        k = ((c * u).flatten(1).sum(1) / (u.square().flatten(1).sum(1) + 1e-8)).view(-1, 1, 1, 1)
        p = c + (c - weak)
        close(prediction, k * u + 3.0 * (p - k * u))


def test_emag_and_pag_on_a_distilled_flux():
    answers, given, stats = recorded("flux", PAG, LATE)
    assert stats.evaluations == 8 * (5 + 4) + 7 * 3
    answers = answers[2:]
    for prediction in given[1:]:
        c, weak_pag, weak_emag = (answers.pop(0) for _ in range(3))
        close(prediction, c + (c - weak_pag) + 0.5 * (c - weak_emag))


def test_the_same_branch_twice_is_evaluated_once():
    one = recorded("sd3", METHODS["pag"](2.0, (1,)), METHODS["pag"](1.5, (1,)), emag.CFG(3.0))
    both = recorded("sd3", METHODS["pag"](2.5, (1,)), emag.CFG(3.0))
    assert one[2].evaluations == both[2].evaluations
    for a, b in zip(one[1], both[1]):
        close(a, b)
