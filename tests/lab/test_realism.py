"""Realism of single images, and a discriminator: what is real, what is noise, and what cannot be told."""

import numpy as np
import pytest

from emag.errors import BadValue
from emag.lab.evaluate.metrics import frechet, measure
from emag.lab.evaluate.metrics.discriminator import realness
from emag.lab.evaluate.metrics.prdc import prdc, realism
from emag.lab.evaluate.metrics.reference import Reference

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((300, 8))


def reference(features, name="known"):
    return Reference(frechet.moments(features), features.astype(np.float32), "random-64-seed0", name)


def test_realism_of_a_copy_is_large_and_of_noise_small():
    assert (realism(REAL, REAL[:20]) == 1000).all()
    assert (realism(REAL, REAL[:20] + 1e-3) >= 1).all()
    assert (realism(REAL, 20 * RNG.standard_normal((50, 8))) < 1).all()


def test_realism_is_the_largest_ratio_of_radius_and_distance():
    some = RNG.standard_normal((12, 8)) * 1.5
    apart = np.linalg.norm(REAL[:, None] - REAL[None], axis=-1)
    radius = np.sort(apart, 1)[:, 3]  # itself is the first
    ratio = radius[:, None] / np.linalg.norm(REAL[:, None] - some[None], axis=-1)
    assert np.allclose(realism(REAL, some, k=3), ratio.max(0))
    assert np.allclose(realism(REAL, some, k=3, chunk=7), ratio.max(0))


def test_realism_from_one_on_is_precision():
    some = RNG.standard_normal((200, 8)) * 1.4
    found = realism(REAL, some)
    assert ((found > 1) == (prdc(REAL, some).precision == 1)).all() and 0.1 < (found > 1).mean() < 0.95


def test_realism_does_not_change_with_the_unit():
    some = RNG.standard_normal((20, 8))
    assert np.allclose(realism(REAL, some), realism(3 * REAL + 5, 3 * some + 5))


def test_a_discriminator_is_at_chance_on_two_halves_of_one_set():
    half, other, held = (RNG.standard_normal((400, 8)) for _ in range(3))
    assert realness(reference(half), reference(other), held).mean() == pytest.approx(0.5, abs=0.05)


def test_a_discriminator_tells_what_differs_and_orders_what_lies_between():
    plain = RNG.standard_normal((400, 8)) + 0.8
    means = [realness(reference(REAL), reference(plain), RNG.standard_normal((300, 8)) + shift).mean()
             for shift in (0.8, 0.4, 0.0)]
    assert means[0] < 0.3 and means[0] < means[1] < means[2] and means[2] > 0.7
    few = realness(reference(REAL), reference(plain[:40]), RNG.standard_normal((300, 8)))
    assert few.mean() > 0.6  # a class with few images does not pull it


def test_what_it_learned_from_is_not_judged():
    plain = RNG.standard_normal((30, 8)).astype(np.float32)
    with pytest.raises(BadValue, match="another seed"):
        realness(reference(REAL), reference(plain, "plain"), plain[:3])
    with pytest.raises(BadValue, match="only mu and sigma"):
        realness(Reference(frechet.moments(REAL), None, None, "adm"), reference(plain), REAL[:3])


def test_a_plan_asks_for_plain_images_of_the_same_extractor():
    known = reference(REAL)
    with pytest.raises(BadValue, match="--plain FILE"):
        measure.plan(["random-discriminator"], known)
    wrong = Reference(known.moments, known.features, "other", "wrong")
    with pytest.raises(BadValue, match="wrong is of other"):
        measure.plan(["random-discriminator"], known, plain=wrong)
    plan = measure.plan(["random-discriminator", "random-realism"], known, plain=reference(REAL + 1, "plain"))
    assert "plain plain" in plan.version(plan.metrics[0], 9) and "k=5" in plan.version(plan.metrics[1], 9)
