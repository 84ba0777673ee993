"""Comparing a set of images with the world's distribution: exact where it is true, and seen where it is not."""

from itertools import product

import numpy as np
import pytest

from emag.errors import BadValue
from emag.lab.evaluate.truth import compare, drawn, holm, parameters, swap_test
from emag.worlds.shapes import place, read, render, to_bytes
from emag.worlds.shapes.verdict import judge

PROMPTS = ["a red circle", "a green ring on black", "two blue crosses", "a cyan square above a red ring"] * 30


def changed(change):
    """uint8 images of true scenes that `change(scene, i)` alters."""
    placed = [place(read(prompt), np.random.default_rng([9, i])) for i, prompt in enumerate(PROMPTS)]
    for i, one in enumerate(placed):
        change(one, i)
    return to_bytes(render(placed))


def differing(found):
    return {one.parameter for one in found.differences if one.p < 0.02}


def test_true_scenes_do_not_differ_from_the_truth():
    found = compare(drawn(PROMPTS, 9), PROMPTS)
    assert found.right == len(PROMPTS) and not differing(found)
    assert min(found.precision, found.recall) > 0.9 and found.frechet < 0.4
    assert all(0.75 < one.spread < 1.3 for one in found.differences)


def test_the_truth_itself_is_at_no_distance():
    found = compare(drawn(PROMPTS, 0), PROMPTS, seed=0)
    assert found.frechet < 1e-9 and all((one.distance, one.p, one.spread) == (0, 1, 1) for one in found.differences)


def test_places_that_lost_their_spread_are_seen():
    def gather(scene, i):
        scene.centres[:] = 32 + scene.centres - scene.centres.mean(0)
    found = compare(changed(gather), PROMPTS)
    spread = {one.parameter: one.spread for one in found.differences}
    assert {"x", "y"} <= differing(found) and "radius" not in differing(found)
    assert spread["x"] < 0.75 and found.recall < 0.9 and found.frechet > 0.5


def test_a_shift_of_colour_or_ground_is_seen_alone():
    def redder(scene, i):
        scene.colours[:, 0] -= 0.06

    def darker(scene, i):
        scene.background[:] -= 0.05 * (scene.background > 0.3)
    assert differing(compare(changed(redder), PROMPTS)) == {"red"}
    assert "grey" in differing(compare(changed(darker), PROMPTS))


def test_rows_of_the_truth_do_not_depend_on_the_others():
    assert np.array_equal(drawn(PROMPTS[:8], 3)[5], drawn([*["a red circle"] * 5, PROMPTS[5]], 3)[5])


def test_of_objects_alike_the_one_furthest_left_counts():
    images = drawn(["two red rings"] * 20, 4)
    rows = parameters(judge(images, ["two red rings"] * 20))
    places = [place(read("two red rings"), np.random.default_rng([4, i])).centres for i in range(20)]
    assert np.allclose(rows[:, 0], [one[:, 0].min() for one in places], atol=0.1)


def test_too_few_right_images():
    with pytest.raises(BadValue, match="only 0 of 30 images are right"):
        compare(np.zeros((30, 64, 64, 3), np.uint8), PROMPTS[:30])


def test_p_of_a_swap_test_counts_all_swaps():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 1, 9), rng.normal(0, 1, 9)

    def reached(x, y):
        at = np.sort(np.concatenate([x, y]))
        return np.abs([(x <= t).mean() - (y <= t).mean() for t in at]).max()
    seen = reached(a, b)
    exact = np.mean([reached(*np.where(np.array(flip)[:, None], [*zip(b, a)], [*zip(a, b)]).T) >= seen - 1e-12
                     for flip in product((False, True), repeat=9)])
    distance, p = swap_test(a, b, 0)
    assert distance == pytest.approx(seen) and p == pytest.approx(exact, abs=0.05)


def test_false_alarms_come_as_often_as_they_may():
    rng = np.random.default_rng(1)
    p = np.array([swap_test(*rng.normal(size=(2, 40)), seed=i)[1] for i in range(300)])
    assert (p <= 0.05).mean() <= 0.08 and (p <= 0.5).mean() <= 0.58


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.5, 0.9]) == [1.0, 1.0]
