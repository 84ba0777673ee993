"""Verdicts where nothing differs, and statistics of shares that were not asked of every image."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from emag.errors import BadValue
from emag.lab.evaluate.metrics import bootstrap
from emag.lab.evaluate.metrics.jackknife import Jackknife, wilson
from emag.lab.evaluate.metrics.paired import p_of_interval, paired_p
from emag.lab.evaluate.metrics.table import METRICS, Sample
from emag.lab.evaluate.results.numbers import Metric, Results, Row

MADE = {"share": lambda x, asked: x > 0.8, "asked": lambda x, asked: np.where(asked, x > 0.3, np.nan),
        "count": lambda x, asked: np.maximum(0, np.floor(x - 0.5)), "number": lambda x, asked: np.exp(x)}
IMAGES, RECIPES, PAGES = 60, 8, 100


def statistics(seed, alike):
    """Of each metric, statistics of the base and of recipes whose images are of one distribution, paired by noise."""
    rng = np.random.default_rng(seed)
    asked, shared = rng.random(IMAGES) < 0.4, rng.standard_normal(IMAGES)
    drawn = [alike**0.5 * shared + (1 - alike) ** 0.5 * rng.standard_normal(IMAGES) for _ in range(RECIPES + 1)]
    return {name: [replace(bootstrap.mean(of(x, asked)), draws=100) for x in drawn] for name, of in MADE.items()}


def page(seed, alike=0.7):
    """The results of such a run."""
    found = statistics(seed, alike)
    own = {name: [bootstrap.Estimate(one.value, 0, 1, one.counted) for one in each] for name, each in found.items()}
    minus = {name: [bootstrap.difference(one, each[0]) for one in each] for name, each in found.items()}
    rows = tuple(Row(f"r{at}", "", False, IMAGES, IMAGES, values={name: own[name][at] for name in found},
                     minus={"r0": {name: minus[name][at] for name in found}} if at else {}) for at in range(RECIPES + 1))
    return Results("r0", {}, {}, {name: Metric("", True) for name in found}, rows)


@pytest.mark.slow
def test_without_any_difference_fewer_than_five_of_a_hundred_pages_show_a_clear_one():
    pages = [page(seed) for seed in range(PAGES)]
    alarms = sum(any(one.clear(row, "r0", name) for row in one.rows[1:] for name in MADE) for one in pages)
    assert alarms <= 5
    uncorrected = sum(any(one.p < 0.05 for row in found.rows[1:] for one in row.minus["r0"].values()) for found in pages)
    assert uncorrected > 20


def test_a_large_difference_is_clear():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(IMAGES)
    a, b = bootstrap.mean(x + 1 + 0.3 * rng.standard_normal(IMAGES)), bootstrap.mean(x)
    rows = (Row("b", "", False, IMAGES, IMAGES, values={"m": bootstrap.interval(b)}),
            Row("a", "", False, IMAGES, IMAGES, values={"m": bootstrap.interval(a)},
                minus={"b": {"m": bootstrap.difference(a, b)}}))
    assert Results("b", {}, {}, {"m": Metric("", True)}, rows).clear(rows[1], "b", "m")


def test_a_share_among_those_asked_has_mcnemars_p():
    """Ten images were asked; six are right in one recipe alone, one in the other: 2 (1 + 7) / 2^7."""
    a, b = np.full(30, np.nan), np.full(30, np.nan)
    a[:10], b[:10] = [1] * 7 + [0] * 3, [1] + [0] * 8 + [1]
    assert paired_p(a, b) == pytest.approx(1 / 8) == paired_p(a[:10] == 1, b[:10] == 1)
    judged = [METRICS["correct-relation"].of(Sample({"relation": np.nan_to_num(one, nan=-1).astype(np.int8)}, {}))
              for one in (a, b)]
    found = bootstrap.difference(*judged)
    assert found.p == pytest.approx(1 / 8) and found.n == 10 and found.value == pytest.approx(0.5)


@pytest.mark.parametrize("moved", [1, 3, 6])
def test_a_few_images_that_differ_alike_are_no_proof(moved):
    """All sign flips of m equal differences: two of 2^m are as far from 0."""
    a, b = np.zeros(50), np.zeros(50)
    a[:moved] = 3.0
    assert stats.ttest_rel(a, b).pvalue < 0.35 and paired_p(a, b) >= 2.0 ** (1 - moved)
    assert paired_p(a[:moved], b[:moved]) == 2.0 ** (1 - moved)  # all of them, by the same: no spread at all


def test_an_interval_without_width_tells_nothing():
    """Real images that lie in two balls each move by none of them."""
    a, b = Jackknife(0.6, np.zeros(20)), Jackknife(0.5, np.zeros(20))
    found = bootstrap.difference(a, b)
    assert found.low == found.high > 0 and p_of_interval(found.value, found.low, found.high) == 1


def test_an_interval_of_few_images_has_heavier_tails():
    near, far = (p_of_interval(one, one - 1.96, one + 1.96, 20) for one in (1.96, 4.0))
    assert near == pytest.approx(2 * stats.t.sf(1.96, 19), rel=1e-3) and far > 10 * p_of_interval(4.0, 2.04, 5.96)
    assert p_of_interval(4.0, 2.04, 5.96, 10**7) == pytest.approx(p_of_interval(4.0, 2.04, 5.96), rel=1e-3)


def test_a_share_that_no_prompt_asks_for_says_so():
    with pytest.raises(BadValue, match="none of the 4 prompts asks for a relation"):
        METRICS["correct-relation"].of(Sample({"relation": np.full(4, -1)}, {}))


def test_all_of_those_asked_are_as_few_as_they_are():
    values = np.full(60, np.nan)
    values[:9] = 1
    found = bootstrap.interval(METRICS["correct-size"].of(Sample({"size": np.nan_to_num(values, nan=-1)}, {})))
    assert (found.value, found.n) == (1, 9) and [found.low, found.high] == pytest.approx(wilson(1.0, 9))
