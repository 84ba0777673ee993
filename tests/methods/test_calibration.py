"""Coefficients of LinearAG, fitted to recorded runs."""

import json
import math

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.null.linear_ag_fit import Record, fit
from emag.records import recipe
from emag.schedules import Interval
from reference import tensors
from saving import COUNT, HOSTS, close, exact, images, pairs, steps, walk
from tiny import CASES

# calibration


def spanned(theta, runs=3, at=(2, 4)):
    """Recorded runs whose u at some steps is a combination of what came before."""
    made = []
    for run in range(runs):
        pairs_of = [tuple(t.double() for t in tensors(100 * run + i, 2)) for i in range(COUNT)]
        for step in at:
            parts = [pairs_of[step][0], *(t for j in range(1, len(theta) // 2 + 1) for t in pairs_of[step - j])]
            pairs_of[step] = (pairs_of[step][0], sum(k * part for k, part in zip(theta, parts)))
        made.append(pairs_of)
    return made


@pytest.mark.parametrize("theta", [(0.3, -0.2, 0.9), (0.3, -0.2, 0.9, 0.1, -0.4)])
def test_fit_finds_what_is_there_to_find(theta):
    runs = spanned(theta)
    rule = fit(runs, steps=(2, 4), pairs=len(theta) // 2)
    assert rule.coefficients == pytest.approx(theta * 2) and rule.steps == (2, 4) and rule.count == COUNT
    _, nulls, evaluated = walk((rule,), steps(), runs[0])
    assert 2 not in evaluated and 4 not in evaluated
    for (_, uncond), null in zip(runs[0], nulls):
        close(null, uncond, **exact)


def test_fit_is_least_squares():
    """The normal equations, and no other coefficients do better on the runs."""
    runs = [pairs(), [tuple(t.double() for t in tensors(70 + i, 2, 3, 4, 6, 6)) for i in range(COUNT)]]
    rule = fit(runs)
    assert rule.steps == (1, 3)
    for at, step in enumerate(rule.steps):
        z = torch.stack([torch.cat([t.flatten() for t in parts]) for parts in zip(
            *[(run[step][0], run[step - 1][0], run[step - 1][1]) for run in runs])])
        u = torch.cat([run[step][1].flatten() for run in runs])
        assert rule.coefficients[3 * at:3 * at + 3] == pytest.approx(torch.linalg.solve(z @ z.T, z @ u).tolist())


def test_fit_survives_dependent_regressors():
    same = [(c, c.clone()) for c, _ in pairs()]
    rule = fit([same], steps=(1,))
    assert rule.coefficients[0] == pytest.approx(1) and all(map(math.isfinite, rule.coefficients))


@pytest.mark.parametrize("bad", [
    lambda: fit([]), lambda: fit([pairs(), pairs(7)]), lambda: fit([pairs()], steps=(0,)), lambda: fit([pairs()], steps=()),
    lambda: fit([pairs()], steps=(COUNT,)), lambda: fit([pairs()], steps=(1,), pairs=2), lambda: fit([pairs(1)])])
def test_fit_refuses(bad):
    with pytest.raises(BadValue):
        bad()


@HOSTS
def test_record_fit_and_guide(case, tmp_path):
    """As its docstring says: record, fit, write, read, guide; recording changes no bit."""
    pipe, seen = CASES[case].pipe(), Record()
    plain = images(case, emag.CFG(3.0))[0]
    with emag.guide(pipe, seen, emag.CFG(3.0)):
        assert torch.equal(CASES[case].run(pipe), plain)
        CASES[case].run(pipe, seeds=(3,))
    assert [len(run) for run in seen.runs] == [COUNT, COUNT]
    assert [len(run[0][0]) for run in seen.runs] == [2, 1]
    rule = fit(seen.runs)
    (tmp_path / "linear_ag.json").write_text(json.dumps(recipe.to_data([rule])))
    assert recipe.read_rules(tmp_path / "linear_ag.json") == (rule,)
    fitted, rows, _ = images(case, rule, emag.CFG(3.0))
    assert rows == 2 * COUNT - 2
    assert (fitted - plain).norm() < (images(case, emag.CFG(1.0))[0] - plain).norm()
    with pytest.raises(BadValue, match="steps"):
        images(case, rule, emag.CFG(3.0), num_inference_steps=5)


def test_record_refuses_steps_without_an_unconditional_prediction():
    with pytest.raises(BadValue, match="every step"):
        images("sd3", Record(), emag.CFG(Interval(3.0, 0.5, 1.0, "progress")))
