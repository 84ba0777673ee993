"""The world of shapes: its renderer against brute force, prompts there and back, scenes against what was asked."""

import math

import numpy as np
import pytest

from emag.errors import BadValue
from emag.worlds.shapes import Kind, Request, place, read, render, request, say, to_bytes
from emag.worlds.shapes import scene as world
from emag.worlds.shapes.prompts import LENGTH, VOCABULARY, ids
from emag.worlds.shapes.render import APEX, ARM, BASE, HALF_SQUARE, HOLE, coverage, distance

AXIS = np.arange(64) + 0.5
AREAS = {"circle": math.pi, "square": (2 * HALF_SQUARE) ** 2, "triangle": 1.02 * (APEX + BASE),
         "ring": math.pi * (1 - HOLE**2), "cross": 8 * ARM - 4 * ARM**2}


def painted(shape, x, y, radius):
    return coverage(shape, AXIS[None] - x, AXIS[:, None] - y, radius)


def requests(count, seed=0):
    rng = np.random.default_rng(seed)
    return [request(rng) for _ in range(count)]


@pytest.mark.parametrize("shape", range(5))
def test_coverage_is_the_share_of_a_pixel_that_is_inside(shape):
    fine = (np.arange(64 * 16) + 0.5) / 16
    inside = distance(shape, fine[None] - 31.3, fine[:, None] - 30.8, 12.4) < 0
    counted = inside.reshape(64, 16, 64, 16).mean((1, 3))
    exact = painted(shape, 31.3, 30.8, 12.4)
    assert np.abs(exact - counted).max() < 0.21 and np.abs(exact - counted).mean() < 1e-3


@pytest.mark.parametrize("radius", [5.5, 13.7])
def test_areas(radius):
    for shape, name in enumerate(world.SHAPES):
        assert painted(shape, 31.7, 32.2, radius).sum() == pytest.approx(AREAS[name] * radius**2, rel=0.02), name


def test_a_moved_scene_is_a_moved_picture():
    for shape in range(5):
        assert np.allclose(np.roll(painted(shape, 25.3, 30.1, 8), (3, -4), (0, 1)), painted(shape, 21.3, 33.1, 8), atol=1e-9)


def test_objects_are_laid_over_what_is_below():
    inner = place(Request((Kind("red", "circle"), Kind("blue", "square")), "inside", "black"), np.random.default_rng(1))
    image = render([inner])[0]
    x, y = inner.centres[1].astype(int)
    assert np.allclose(image[y, x], inner.colours[1], atol=1e-6) and np.allclose(image[0, 0], inner.background, atol=1e-6)


def test_a_seed_decides_all():
    wanted = requests(20)
    a, b = (to_bytes(render([place(one, np.random.default_rng([5, i])) for i, one in enumerate(wanted)])) for _ in range(2))
    assert np.array_equal(a, b) and requests(20) == wanted != requests(20, 1)


def test_prompts_there_and_back():
    for one in requests(400):
        assert read(say(one)) == one and len(ids(say(one))) == LENGTH == 12
    assert {word for one in requests(2000) for word in say(one).split()} >= {"two", "inside", "larger", "crosses", "grey"}


@pytest.mark.parametrize(("said", "canonical"), [
    ("Three big red Crosses on gray", "three large red crosses on grey"), ("red circle", "a red circle"),
    ("an cyan disc, left of one violet plus.", "a cyan circle left of a purple cross"), ("two red rings", "two red rings")])
def test_what_a_reader_may_write(said, canonical):
    assert say(read(said)) == canonical


@pytest.mark.parametrize(("prompt", "says"), [
    ("a dog", "unknown word 'dog'"), ("a circle", "not a number, a size"), ("a red circle on red", "after 'on' comes"),
    ("a red circle and a red circle", "differ in colour or shape"), ("two red rings and a blue ring", "between one object"),
    ("a red ring inside a red circle", "another colour"), ("a red ring inside a blue cross", "one of circle, square"),
    ("a small red ring larger than a blue ring", "takes no size word"), ("on black", "nothing"), ("", "nothing"),
    ("a red circle left of", "nothing"), ("a red circle on black white", "after 'on' comes"),
    ("red blue circle", "not a number"), ("a red circle a blue ring", "not a number")])
def test_prompts_that_are_not_of_the_world(prompt, says):
    with pytest.raises(BadValue, match=says):
        read(prompt)


def test_words_have_numbers_and_padding_is_zero():
    assert ids("")[:2] == [0, 0] and ids("a red ring")[:4] == [VOCABULARY.index(w) for w in ("a", "red", "ring")] + [0]
    assert ids("two red rings")[2] == ids("a red ring")[2]


@pytest.mark.parametrize("relation", [None, *world.RELATIONS])
def test_scenes_answer_their_request(relation):
    rng = np.random.default_rng(2)
    wanted = Request((Kind("red", "circle"), Kind("blue", "square")), relation, "white")
    for _ in range(50):
        one = place(wanted, rng)
        first, second = (0, 1) if relation != "inside" else (1, 0)
        assert [world.SHAPES[one.shapes[i]] for i in (first, second)] == ["circle", "square"]
        (x, y), (u, v) = one.centres[first], one.centres[second]
        r, s = one.radii[first], one.radii[second]
        away = np.hypot(x - u, y - v)
        assert {None: away > r + s, "left of": u - x >= 8, "above": v - y >= 8, "larger than": r >= 1.35 * s,
                "inside": away + r < 0.88 * s}[relation]
        assert (one.centres - one.radii[:, None] > 1).all() and (one.centres + one.radii[:, None] < 63).all()
        assert abs(one.background[0] - 0.94) <= 0.03
        assert np.abs(one.colours[first] - world.PALETTE["red"]).max() <= world.COLOUR_JITTER


def test_sizes_are_kept():
    rng = np.random.default_rng(3)
    for size, (low, high) in world.RADII.items():
        radii = [place(Request((Kind("red", "ring", size),)), rng).radii[0] for _ in range(50)]
        assert low <= min(radii) and max(radii) <= high and (low < world.RADIUS_MEAN) == (high < world.RADIUS_MEAN)


def test_objects_never_touch():
    for i, one in enumerate(requests(150, 4)):
        if one.relation != "inside":
            made = place(one, np.random.default_rng(i))
            covers = [painted(shape, x, y, r) > 0 for shape, (x, y), r in zip(made.shapes, made.centres, made.radii)]
            assert np.sum(covers, 0).max() == 1


@pytest.mark.parametrize("holder", world.HOLDERS)
@pytest.mark.parametrize("shape", world.SHAPES)
def test_what_is_inside_is_wholly_inside(holder, shape):
    for i in range(30):
        made = place(Request((Kind("red", shape), Kind("blue", holder)), "inside"), np.random.default_rng(i))
        outer, inner = (painted(kind, x, y, r) for kind, (x, y), r in zip(made.shapes, made.centres, made.radii))
        if holder == "ring":
            assert outer[inner > 0.5].max() < 0.1
        else:
            assert outer[inner > 0.5].min() > 0.9


@pytest.mark.parametrize("shape", ["square", "triangle"])
def test_corners_do_not_touch_either(shape):
    for i in range(80):
        made = place(Request((Kind("red", shape),) * 3), np.random.default_rng(i))
        covers = [painted(kind, x, y, r) > 0 for kind, (x, y), r in zip(made.shapes, made.centres, made.radii)]
        assert np.sum(covers, 0).max() == 1
