"""Realism of single images: what is real, what is far from it, and the balls that are left out."""

import numpy as np
import pytest
import torch

from emag.errors import BadValue
from emag.lab.evaluate.metrics import frechet, measure
from emag.lab.evaluate.metrics.prdc import prdc, radii, realism
from emag.lab.evaluate.metrics.reference import Reference
from emag.lab.evaluate.metrics.table import METRICS, Sample

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((300, 8))
RADII = np.sqrt(radii(torch.from_numpy(REAL), 5).numpy())
SMALL = np.median(RADII) >= RADII


def reference(features, name="known"):
    return Reference(frechet.moments(features), features.astype(np.float32), "random-64-seed0", name)


def test_a_real_image_scores_one_or_more():
    assert (realism(REAL, REAL, kept=1) >= 1).all()
    assert (realism(REAL, REAL[SMALL]) == 1000).all()  # in the middle of its own ball


def test_far_outliers_score_below_one_and_less_the_farther_they_are():
    way = RNG.standard_normal(8)
    found = realism(REAL, np.stack([way * far for far in (10, 20, 40)]))
    assert (found < 1).all() and (np.diff(found) < 0).all()
    assert found[1] / found[2] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("kept", [0.5, 1])
def test_realism_is_the_largest_ratio_of_radius_and_distance(kept):
    some = RNG.standard_normal((12, 8)) * 1.5
    apart = np.linalg.norm(REAL[:, None] - REAL[None], axis=-1)
    radius = np.sort(apart, 1)[:, 3]  # itself is the first
    small = radius <= np.sort(radius)[int(kept * 299 + 0.5)]
    assert small.sum() == (300 if kept == 1 else 151)
    ratio = radius[small, None] / np.linalg.norm(REAL[small, None] - some[None], axis=-1)
    for chunk in (7, 2048):
        assert np.allclose(realism(REAL, some, 3, chunk, kept=kept), ratio.max(0))


def test_a_real_outlier_makes_nothing_near_it_real():
    """Its ball reaches to the others; only where all balls count does an image that is like none lie in one."""
    real = np.concatenate([REAL, [[30.0] * 8]])
    odd = np.full((1, 8), 20.0)
    assert realism(real, odd, kept=1) > 1 > realism(real, odd) == pytest.approx(realism(REAL, odd), rel=0.1)


def test_realism_with_all_balls_is_above_one_where_precision_is_one():
    some = RNG.standard_normal((200, 8)) * 1.4
    found = realism(REAL, some, kept=1)
    assert ((found > 1) == (prdc(REAL, some).precision == 1)).all() and 0.1 < (found > 1).mean() < 0.95
    assert (realism(REAL, some) <= found).all()


def test_realism_does_not_change_with_the_unit():
    some = RNG.standard_normal((20, 8))
    for scale, shift in ((3, 5), (1e-4, -2)):
        assert np.allclose(realism(REAL, some), realism(scale * REAL + shift, scale * some + shift))


def test_realism_of_an_image_is_its_own():
    some, known = RNG.standard_normal((20, 8)), torch.from_numpy(RADII**2)
    whole = realism(REAL, some)
    assert np.allclose(whole, np.concatenate([realism(REAL, one[None], real_radii=known) for one in some]))
    order = RNG.permutation(20)
    assert np.allclose(whole[order], realism(REAL, some[order]))


def test_many_copies_of_a_real_image_have_a_ball_too():
    far = np.full((1, 8), 30.1)
    found = realism(np.concatenate([REAL, np.repeat(far, 7, 0)]), np.concatenate([far, far + 1]))
    assert found[0] == 1 > found[1]
    assert (realism(np.ones((9, 3)), np.ones((2, 3))) == 1).all()


def test_the_metric_is_a_mean_over_images_so_that_differences_are_paired():
    real, some = reference(REAL), RNG.standard_normal((40, 8)).astype(np.float32)
    statistic = METRICS["random-realism"].of(Sample({"features": some}, {}, real))
    assert np.allclose(statistic.each, np.log2(realism(real.features, some)))
    assert statistic.value == pytest.approx(statistic.each.mean())


def test_a_reference_of_moments_has_no_balls():
    moments = Reference(frechet.moments(REAL), None, "random-64-seed0", "adm")
    with pytest.raises(BadValue, match="only mu and sigma"):
        METRICS["random-realism"].of(Sample({"features": REAL}, {}, moments))
    plan = measure.plan(["random-realism"], reference(REAL))
    assert "mean log2 of realism, k=5" in plan.version(plan.metrics[0], 9)
