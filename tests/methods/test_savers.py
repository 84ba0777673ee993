"""Rules that spare the unconditional evaluation: what they give in its place, and that it is really not made."""

import math
from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, Step, with_null
from emag.errors import Unsupported
from emag.hosts.defaults import resolve
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods.null.ag import AG
from emag.methods.null.cfg_cache import CFGCache
from emag.methods.null.linear_ag import LinearAG
from emag.methods.null.rcfg import RCFG
from emag.schedules import Interval
from reference import SPACES, scheduler_steps, tensors
from saving import COUNT, HOSTS, close, exact, images, pairs, steps, walk
from tiny import CASES

# adaptive guidance (M22)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_ag_spares_all_evaluations_once_the_branches_agree(case, combiner):
    _, rows, run = images(case, AG(-2.0), *combiner)
    assert rows == COUNT + 1 and run.stats.evaluations < run.stats.planned
    assert images(case, AG(0.999999), *combiner)[1] == 2 * COUNT


@HOSTS
def test_ag_is_cfg_on_the_first_step_and_conditional_ever_after(case):
    seen = []
    for rules in ((AG(-2.0), emag.CFG(3.0)), (emag.CFG(Interval(3.0, 0.0, 0.1, "progress")),)):
        pipe = CASES[case].pipe()
        with emag.guide(pipe, *rules), scheduler_steps(pipe) as at:
            CASES[case].run(pipe)
        seen.append([step.prediction for step in at])
    close(torch.stack(seen[0]), torch.stack(seen[1]), atol=1e-5, rtol=1e-5)


def test_ag_latches_at_equal_branches_and_holds():
    run = pairs()
    run[2] = (run[2][0], run[2][0].clone())
    made, _, evaluated = walk((AG(0.99), emag.CFG(3.0)), steps(), run)
    assert evaluated == [0, 1, 2]
    for i, (cond, uncond) in enumerate(run):
        close(made[i], cond if i > 2 else uncond + 3 * (cond - uncond), **exact)


def test_ag_decides_for_each_sample_and_spares_when_all_agree():
    run = pairs()
    for at, row in ((1, 0), (4, 1)):
        run[at][1][row] = run[at][0][row]
    made, _, evaluated = walk((AG(0.99), emag.CFG(3.0)), steps(), run)
    assert evaluated == [0, 1, 2, 3, 4]
    for i, (cond, uncond) in enumerate(run):
        full = uncond + 3 * (cond - uncond)
        for row, latched in ((0, 1), (1, 4)):
            close(made[i][row], (cond if i > latched else full)[row], **exact)


@pytest.mark.parametrize("on", ["x0", "epsilon"])
@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_ag_takes_the_cosine_in_its_space_whatever_the_network_predicts(path, space, on):
    step = steps(path, space)[3]
    at = (step.x, step.alpha, step.sigma, space)
    p = dict(zip((COND, UNCOND), pairs()[3]))
    there = {name: convert(t, *at, on).flatten(1) for name, t in p.items()}
    cosine = (there[COND] * there[UNCOND]).sum(1) / there[COND].norm(dim=1) / there[UNCOND].norm(dim=1)
    for threshold in cosine.tolist():
        for shift, latched in ((1e-9, cosine >= threshold + 1e-9), (-1e-9, cosine >= threshold - 1e-9)):
            state = {}
            assert AG(threshold + shift, on).new_null(p, step, state) is None
            assert torch.equal(state["agree"], latched)


def test_ag_in_epsilon_decides_nothing_at_pure_noise():
    """There a flow's epsilon is x for every branch."""
    noise = [Step(i, (1.0, 0.5), (0.0, 0.5), 1.0, "flow", tensors(1, 1)[0].double(), Streams([])) for i in range(2)]
    assert walk((AG(0.99, "epsilon"), emag.CFG(3.0)), noise, pairs(2))[2] == [0, 1]


def test_the_default_threshold_is_the_models():
    for model, threshold in (("tiny", 0.9998), ("SD3Transformer2DModel", 0.999), ("a plain function", 0.999)):
        assert resolve(AG(), (model,), 24).threshold == threshold
    assert not AG().neutral


def test_in_the_papers_space_the_default_is_the_papers():
    """Whatever the model: the branches of a U-Net that differ by less than its angle agree, by more they do not."""
    rule = AG(on="epsilon")
    assert rule == AG(0.991, "epsilon") == resolve(rule, ("tiny",), 24) and rule != AG()
    cond = tensors(1, 1)[0].double()[:1]
    side = torch.randn(cond.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    side -= (side * cond).sum() / cond.square().sum() * cond
    for angle, agrees in ((0.13, True), (0.14, False)):  # cos 0.13425 = 0.991
        state, uncond = {}, math.cos(angle) * cond + math.sin(angle) * side / side.norm() * cond.norm()
        rule.new_null({COND: cond, UNCOND: uncond}, replace(steps("vp", "epsilon")[3], x=cond), state)
        assert state["agree"].tolist() == [agrees]


def test_the_papers_threshold_is_refused_on_a_flow():
    """There all branches agree to it in epsilon; a threshold of the user's own is taken."""
    for rules in ((AG(on="epsilon"), emag.CFG(3.0)), (AG(on="epsilon"),)):
        with pytest.raises(Unsupported, match=r"0\.991 in epsilon is for variance-preserving"):
            images("sd3", *rules)
    images("sd3", AG(0.9999, "epsilon"), emag.CFG(3.0))


# LinearAG (M23)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_linear_ag_keeps_the_difference_of_the_step_before_in_x0(path, space):
    run, at = pairs(), steps(path, space)
    there = [tuple(convert(t, s.x, s.alpha, s.sigma, "x0", space) for t in pair) for s, pair in zip(at, run)]
    _, nulls, evaluated = walk((LinearAG(),), at, there)
    assert evaluated == [0, 2, 4, 5, 6, 7]
    for i, (cond, uncond) in enumerate(run):
        expected = cond - run[i - 1][0] + run[i - 1][1] if i in (1, 3) else uncond
        close(convert(nulls[i], at[i].x, at[i].alpha, at[i].sigma, space, "x0"), expected, atol=1e-8, rtol=1e-8)


def test_linear_ag_can_reuse_the_last_prediction():
    run = pairs()
    _, nulls, evaluated = walk((LinearAG((0, 0, 1), every=4, until=1.0),), steps(), run)
    assert evaluated == [0, 4]
    assert all(torch.equal(nulls[i], run[i - i % 4][1]) for i in range(COUNT))


def test_linear_ag_counts_what_it_gave_as_past_and_takes_the_latest_pair_first():
    run = pairs()
    _, nulls, evaluated = walk((LinearAG((0.5, 0.1, 0.2, 0.3, 0.4), pairs=2, steps=(3, 4)),), steps(), run)
    assert evaluated == [0, 1, 2, 5, 6, 7]
    third = 0.5 * run[3][0] + 0.1 * run[2][0] + 0.2 * run[2][1] + 0.3 * run[1][0] + 0.4 * run[1][1]
    close(nulls[3], third, **exact)
    close(nulls[4], 0.5 * run[4][0] + 0.1 * run[3][0] + 0.2 * third + 0.3 * run[2][0] + 0.4 * run[2][1], **exact)


def test_linear_ag_takes_coefficients_per_step():
    run = pairs()
    _, nulls, _ = walk((LinearAG((1, 0, 0, 0, 0, 1), steps=(5, 2)),), steps(), run)
    assert torch.equal(nulls[5], run[5][0]) and torch.equal(nulls[2], run[1][1])


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_linear_ag_spares_its_steps(case, combiner):
    assert images(case, LinearAG(), *combiner)[1] == 2 * COUNT - 2
    assert images(case, LinearAG(steps=(2, 3, 7)), *combiner)[1] == 2 * COUNT - 3


@pytest.mark.parametrize("saver", [LinearAG(steps=(3, 4)), LinearAG((1, 0, 0, 0, 0), pairs=2, steps=(3, 4, 5)),
                                   CFGCache(every=2, below=2.0), RCFG("onetime"), RCFG()], ids=repr)
def test_savers_wait_until_they_have_seen_what_they_need(saver):
    """Guidance that begins late: what was never evaluated cannot be made up for, and the plan knows it."""
    late = emag.CFG(Interval(3.0, 3 / COUNT, 1.0, "progress"))
    _, nulls, evaluated = walk((saver, late), steps(), pairs())
    first = list(range(3, 3 + saver.needs))
    assert evaluated[:saver.needs] == first and all(nulls[i] is not None for i in range(3, COUNT))
    _, rows, run = images("sd3", saver, late)
    assert rows == COUNT + len(evaluated) and run.stats.planned == run.stats.evaluations


@pytest.mark.parametrize("saver", [LinearAG(steps=(1, 2, 5)), CFGCache(every=3, below=2.0), RCFG("onetime", 0.9), RCFG()],
                         ids=repr)
def test_what_savers_give_does_not_depend_on_who_else_reads(saver):
    """Where a branch keeps the unconditional rows, they are evaluated and not used."""
    _, spared, evaluated = walk((saver,), steps(), pairs())
    states, given = [{}], []
    for step, pair in zip(steps(), pairs()):
        given.append(with_null((saver,), dict(zip((COND, UNCOND), pair)), step, states)[UNCOND])
    assert len(evaluated) < COUNT and all(torch.equal(a, b) for a, b in zip(spared, given))
