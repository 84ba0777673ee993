"""The laws that every rule, schedule and saver obeys, over the table of tests/rows.py."""

from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine, with_null
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods import METHODS
from emag.records import recipe
from emag.schedules import SCHEDULES, Schedule
from reference import SPACES, at_step, tensors
from rows import ROWS
from spy import Counter, attention_of
from tiny import CASES

close = torch.testing.assert_close
COUNT = 6
ALGEBRA = [row for row in ROWS if not row.sees]
PIPES = ("sd3", "dit", "pixart", "true-cfg")
RUNS = [(row, case) for row in ROWS for case in row.only or PIPES]


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


on_pipes = pytest.mark.parametrize(("row", "case"), RUNS, ids=[f"{row.name}-{case}" for row, case in RUNS])


def levels(path):
    """Noise levels of a short run: sigmas and alphas, noisiest first."""
    sigmas = tuple(0.95 - 0.15 * i for i in range(COUNT))
    return sigmas, tuple((1 - s**2) ** 0.5 if path == "vp" else 1 - s for s in sigmas)


def run(rules, path="vp", space="epsilon", rows=slice(None), change=lambda i, p: p, dtype=torch.float64, told="x0"):
    """The predictions of a run over made-up branches, the same in every space."""
    sigmas, alphas = levels(path)
    states, made = [{} for _ in rules], []
    first = tensors(99, 1, 3, 4, 6, 6)[0][rows]
    for i in range(COUNT):
        x, cond, uncond = (t[rows].to(dtype) for t in tensors(i, 3, 3, 4, 6, 6))
        branches = change(i, {COND: cond, UNCOND: 0.5 * cond + uncond})
        step = at_step(path, space, x, index=i, sigmas=sigmas, alphas=alphas, time=sigmas[i], streams=Streams.of(first))
        at = (x, alphas[i], sigmas[i])
        branches = {name: convert(p, *at, told, space) for name, p in branches.items()}
        after = with_null(rules, branches, step, states)
        pred = combine(rules, after[COND], after, step, states)
        made.append(convert(torch.stack([pred, after[UNCOND]]), *(torch.stack([x, x]), *at[1:]), space, told))
    return torch.stack(made)


def resolved(rules):
    """Rules with nothing left to fill in: the table names every parameter that has no default."""
    assert all(getattr(rule, "scale", 0) is not None for rule in rules)
    return rules


@named(ROWS)
def test_every_row_survives_a_recipe(row):
    assert recipe.from_data(recipe.to_data(row.rules)) == row.rules


def test_the_table_is_complete():
    held = {rule.name for row in ROWS for rule in row.rules}
    scales = [getattr(rule, "scale", None) for row in ROWS for rule in row.rules]
    schedules = {scale.name for scale in scales if isinstance(scale, Schedule)}
    assert held == set(METHODS)
    assert schedules | {"constant"} == set(SCHEDULES)


@named([row for row in ALGEBRA if row.neutral is not None])
def test_neutral_parameters_change_nothing(row):
    plain = run(())
    active = [rule for rule in row.neutral if not rule.neutral]
    before = row.rules[:-1]
    assert torch.equal(run(active), run(before) if before else plain)


@named(ALGEBRA)
def test_it_acts(row):
    before = row.rules[:-1]
    assert not torch.allclose(run(row.rules), run(before), atol=1e-3)


@named([row for row in ALGEBRA if not row.raw])
def test_all_spaces_give_one_result(row):
    for path, spaces in SPACES.items():
        known = run(row.rules, path, "x0")
        for space in spaces:
            close(run(row.rules, path, space), known, atol=1e-8, rtol=1e-8)


@named(ALGEBRA)
def test_rows_do_not_see_each_other(row):
    both = run(row.rules)
    for i in range(3):
        close(run(row.rules, rows=slice(i, i + 1)), both[:, :, i:i + 1], atol=1e-9, rtol=1e-9)


DEGENERATE = {
    "equal": lambda i, p: {COND: p[COND], UNCOND: p[COND].clone()},
    "zero": lambda i, p: {name: torch.zeros_like(t) for name, t in p.items()},
    "zero cond": lambda i, p: {COND: torch.zeros_like(p[COND]), UNCOND: p[UNCOND]},
    "zero uncond": lambda i, p: {COND: p[COND], UNCOND: torch.zeros_like(p[UNCOND])},
}


@named(ALGEBRA)
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_degenerate_input_stays_finite(row, kind, dtype):
    for space in ("epsilon", "x0"):
        made = run(row.rules, space=space, change=DEGENERATE[kind], dtype=dtype, told=space)
        assert made.isfinite().all() and made.dtype == dtype


# in pipelines


def images(case, rules, row=None, **more):
    """Latents that a pipeline makes under `rules`, the finished run, and blocks evaluated as counted from outside."""
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, *rules, **dict(row.more if row else ())) as handle:
        made = CASES[case].run(pipe, **more)
    return made, handle.stats, sum(counter.blocks.values())


@on_pipes
def test_evaluations_are_as_planned_and_as_counted_outside(row, case):
    made, stats, counted = images(case, row.rules, row)
    assert made.isfinite().all()
    assert row.more or stats.evaluations == counted // 2  # a second network's blocks are not among those counted
    assert stats.evaluations <= stats.planned if row.guess else stats.evaluations == stats.planned


@on_pipes
def test_a_second_run_starts_anew(row, case):
    pipe = CASES[case].pipe()
    with emag.guide(pipe, *row.rules, **dict(row.more)):
        first, second = CASES[case].run(pipe), CASES[case].run(pipe)
    assert torch.equal(first, second)


@on_pipes
def test_an_image_is_the_same_alone(row, case):
    together, *_ = images(case, row.rules, row, seeds=(8, 9))
    alone, *_ = images(case, row.rules, row, seeds=(9,))
    close(together[1:], alone, atol=2e-4 * max(1.0, float(alone.abs().max())), rtol=1e-4)


@on_pipes
def test_the_image_changes(row, case):
    plain, *_ = images(case, row.rules[:-1])
    made, *_ = images(case, row.rules, row)
    assert not torch.allclose(made, plain, atol=1e-3)


NEUTRAL = [(row, case) for row, case in RUNS if row.neutral is not None]


@pytest.mark.parametrize(("row", "case"), NEUTRAL, ids=[f"{row.name}-{case}" for row, case in NEUTRAL])
def test_neutral_is_the_plain_pipeline_bit_for_bit(row, case):
    """A combining rule at scale 1 is the pipeline with its own guidance off; any other is the guidance without it."""
    alone = row.neutral[-1].kind == "combining" and len(row.neutral) == 1
    plain = CASES[case].run(CASES[case].pipe(), **({CASES[case].scale: 1.0} if alone else {}))
    if len(row.neutral) > 1:
        plain, *_ = images(case, row.neutral[:-1])
    made, *_ = images(case, row.neutral, row)
    assert torch.equal(made, plain)


def test_a_row_that_is_not_told_apart_would_be_seen():
    """The laws have teeth: a rule that mixes the batch, and one that keeps its state, break them."""

    class Mixing(emag.CFG):
        def apply(self, pred, branches, step, state):
            return super().apply(pred, branches, step, state) + pred.mean()

    assert not torch.allclose(run((Mixing(3.0),))[:, :, :1], run((Mixing(3.0),), rows=slice(0, 1)), atol=1e-6)
    assert replace(ROWS[0], name="other") != ROWS[0]
