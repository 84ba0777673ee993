"""Feedback guidance, and what holds for all schedules."""

import math
from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.maths.predictions import convert
from emag.records import recipe
from emag.schedules import (
    MAMBOG,
    SCHEDULES,
    Annealing,
    BetaCFG,
    CFGpp,
    Curve,
    Feedback,
    Interval,
    Rectified,
)
from emag.schedules.feedback import stepped
from heads import written
from reference import SPACES, branches_in
from scheduled import at, branches, close, exact, guided
from tiny import CASES

# feedback (M17)


def nearness(target):
    return lambda x, step: -(x.double() - target.double()).flatten(1).square().sum(1)


def next_of(pred, step):
    """The next sample, written out."""
    at_x = (step.x, step.alpha, step.sigma, step.space)
    clean, noise = (convert(pred, *at_x, target) for target in ("x0", "epsilon"))
    return step.next[0] * clean + step.next[1] * noise


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_feedback_picks_the_choice_that_leads_closest(path, space):
    step = at(path, space)
    p = branches_in(space, step, "x0", branches())
    ways = {s: next_of(p[UNCOND] + s * (p[COND] - p[UNCOND]), step) for s in (7.5, 1.0, 3.0, 11.0)}
    for s, way in ways.items():
        close(stepped(p[UNCOND] + s * (p[COND] - p[UNCOND]), step), way, **exact)
    target = torch.stack([ways[11.0][0], ways[1.0][1], ways[7.5][2]]) + 0.01
    schedule = Feedback(7.5, (1.0, 3.0, 11.0), nearness(target))
    assert schedule.at(p, step, {}).tolist() == [11.0, 1.0, 7.5]
    weights = torch.tensor([11.0, 1.0, 7.5]).double().view(-1, 1, 1, 1)
    close(guided(schedule, p, step), p[UNCOND] + weights * (p[COND] - p[UNCOND]), **exact)
    same = Feedback(7.5, (1.0, 3.0, 11.0), lambda x, step: nearness(target)(x, step).div(1e4).exp().sub(3))
    assert same.at(p, step, {}).tolist() == [11.0, 1.0, 7.5]


def test_feedback_with_one_choice_is_cfg():
    p, step = branches(), at()
    for schedule in (Feedback(4.0, ()), Feedback(4.0, (4.0,), nearness(p[COND]))):
        assert torch.equal(guided(schedule, p, step), guided(4.0, p, step))
    assert Feedback(1.0, ()).known(step) == 1


def test_feedback_scores_single_precision_samples_of_the_next_level_once_each():
    seen = []

    def score(x, step):
        seen.append((x.dtype, tuple(x.shape), step.next))
        return torch.zeros(len(x))

    step = at()
    picks = Feedback(7.5, (1.0, 7.5, 3.0, 1.0), score).at(branches(), step, {})
    assert picks.tolist() == [7.5] * 3  # ties go to the scale itself
    assert seen == [(torch.float32, (3, 4, 6, 6), step.next)] * 3


def test_feedback_never_picks_what_has_no_score():
    assert Feedback(2.0, (3.0,), lambda x, step: torch.full((3,), math.nan)).at(branches(), at(), {}).tolist() == [2.0] * 3
    step = at()
    calls = iter((math.nan, 5.0))
    schedule = Feedback(2.0, (3.0,), lambda x, step: torch.full((3,), next(calls)))
    assert schedule.at(branches(), step, {}).tolist() == [3.0] * 3


def test_feedback_mixes_several_scores_by_how_much_they_rise():
    """Scores given by hand: two steps, two choices, two evaluators, one sample."""
    table = iter([1.0, 4.0, 2.0, 2.0,  # step 0: choices (1, 4) and (2, 2); sums 5 and 4: the first
                  1.1, 8.0, 3.0, 4.4])  # step 1: 1.1 (0.1) + 8 (1) = 8.11 and 3 (2) + 4.4 (0.1) = 6.44: the first
    rest = iter([1.0, 4.0, 2.0, 2.0, 1.1, 5.0, 3.0, 4.4])  # 1.1 (0.1) + 5 (0.25) = 1.36 and 6.44: the second
    for scores, expected in ((table, [2.0, 2.0]), (rest, [2.0, 3.0])):
        state, p = {}, branches(rows=1)
        schedule = Feedback(2.0, (3.0,), (lambda x, step, s=scores: torch.tensor([next(s)]),) * 2)
        assert [float(schedule.at(p, at(rows=1, index=i), state)) for i in (4, 5)] == expected


def test_feedback_does_not_mix_rows():
    """Two evaluators, so that a score before is kept; every row alone gets what it gets in a batch."""
    scores = (lambda x, step: 5 + x.flatten(1).mean(1), lambda x, step: 1 / (1 + x.flatten(1).norm(dim=1)))
    schedule, picks = Feedback(2.0, (1.0, 3.0, 9.0), scores), []
    for rows in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):
        state, found = {}, []
        for i in range(4):
            p = {name: t[rows] for name, t in branches(10 + i).items()}
            found.append(schedule.at(p, replace(at(index=i), x=at().x[rows]), state))
        picks.append(torch.stack(found, 1))
    assert torch.equal(picks[0], torch.cat(picks[1:])) and len(picks[0].unique()) > 1


def test_feedback_in_a_pipeline():
    pipe = CASES["sd3"].pipe()
    plain = CASES["sd3"].run(pipe, guidance_scale=3.0)
    calls = []

    def low(x, step):
        calls.append(step.index)
        return -x.flatten(1).norm(dim=1)

    with emag.guide(pipe, emag.CFG(Feedback(3.0, (3.0,), low))):
        assert torch.allclose(CASES["sd3"].run(pipe), plain, atol=1e-4) and not calls
    with emag.guide(pipe, emag.CFG(Feedback(3.0, (1.0,), low))) as run:
        made = CASES["sd3"].run(pipe)
    assert calls == [i for i in range(8) for _ in range(2)] and not torch.allclose(made, plain, atol=1e-3)
    assert run.record["rules"] == [] and "rules" in run.record["unrecorded"]


def test_a_function_cannot_be_written_into_a_recipe():
    with pytest.raises(BadValue, match="function"):
        recipe.to_data([emag.CFG(Feedback(3.0, (1.0,), nearness(torch.zeros(1))))])


# all


@pytest.mark.parametrize("schedule", [BetaCFG(), MAMBOG(), Annealing(0.4, written()), Feedback(2.0, (3.0,), nearness)],
                         ids=lambda schedule: schedule.name)
def test_measuring_without_an_unconditional_prediction_is_an_error(schedule):
    with pytest.raises(BadValue, match="unconditional"):
        schedule.at({COND: branches()[COND]}, at(), {})


@pytest.mark.parametrize("bad", [
    lambda: Curve(3.0, "bump"), lambda: Curve(3.0, power=0.0), lambda: Curve(3.0, power=math.nan),
    lambda: Curve(3.0, floor=-1.0), lambda: Curve(3.0, floor=math.inf), lambda: Curve(3.0, convention="x"),
    lambda: Curve(-1.0), lambda: Curve(math.nan), lambda: Rectified(3.0, -1.0), lambda: Rectified(3.0, math.nan),
    lambda: BetaCFG(3.0, 0.5), lambda: BetaCFG(3.0, 2.0, math.inf), lambda: BetaCFG(3.0, math.nan),
    lambda: BetaCFG(3.0, gamma=-1.0), lambda: BetaCFG(math.inf), lambda: MAMBOG(3.0, -1.0), lambda: MAMBOG(3.0, math.nan),
    lambda: CFGpp(-0.1), lambda: CFGpp(math.nan), lambda: Annealing(0.4), lambda: Annealing(0.4, "x", bias=math.nan),
    lambda: Annealing(math.inf, "x"), lambda: Feedback(3.0), lambda: Feedback(3.0, (-1.0,), nearness),
    lambda: Feedback(3.0, (math.nan,), nearness), lambda: Interval(3.0, 2.0, 1.0), lambda: Interval(3.0, unit="time")])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()


def test_every_schedule_says_what_it_is():
    for name, schedule in {**SCHEDULES, "feedback": Feedback}.items():
        assert schedule.__doc__ and schedule.paper and schedule.equation and schedule.name == name


@pytest.mark.parametrize("text", ["curve:3:shape=cosine:falling=true", "cfg++:0.6", "beta-cfg:7.5:b=3", "mambo-g",
                                  "rectified:4.5"])
def test_schedules_have_a_short_form(text):
    rule = recipe.parse(f"cfg={text}")
    assert rule.scale.name == text.partition(":")[0] and recipe.from_data(recipe.to_data([rule])) == (rule,)
