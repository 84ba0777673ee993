"""The judge of the world of shapes: known answers for true, noisy and spoilt scenes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from emag.errors import BadValue
from emag.worlds.shapes import Kind, Request, place, read, render, request, say, to_bytes
from emag.worlds.shapes.scene import COLOURS, PALETTE, SHAPES, Scene
from emag.worlds.shapes.see import see
from emag.worlds.shapes.verdict import judge

PARTS = ("number", "colour", "shape", "size", "relation", "background")


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    wanted = [request(rng) for _ in range(count)]
    return [say(one) for one in wanted], [place(one, rng) for one in wanted]


def made(*objects, background=0.06):
    """A scene of objects (colour, shape, x, y, radius), drawn in that order."""
    colours, shapes, xs, ys, radii = zip(*objects)
    return Scene(np.array([SHAPES.index(s) for s in shapes]), np.stack([xs, ys], 1).astype(float), np.array(radii, float),
                 np.array([PALETTE[c] for c in colours]), np.full(3, background))


def verdict(scene, prompt):
    return judge(to_bytes(render([scene])), [prompt])[0]


def wrong(scene, prompt):
    return verdict(scene, prompt).faults


@pytest.fixture(scope="module")
def true():
    prompts, placed = scenes(300)
    return prompts, placed, render(placed)


def test_true_scenes_are_right_and_leave_no_residual(true):
    prompts, _, images = true
    verdicts = judge(to_bytes(images), prompts)
    assert all(one.right for one in verdicts) and min(one.decibels for one in verdicts) > 42
    assert np.mean([one.residual for one in verdicts]) < 1e-6


def test_noise_is_read_as_noise(true):
    prompts, _, images = true
    noise = 0.05 * np.random.default_rng(1).standard_normal(images.shape)
    verdicts = judge(images + noise, prompts)
    assert all(one.right for one in verdicts)
    assert np.sqrt(np.mean([one.residual for one in verdicts])) == pytest.approx(0.05, rel=0.02)


def test_what_is_found_is_where_it_is(true):
    _, placed, images = true
    for scene, found in zip(placed, see(images).found):
        for shape, (x, y), radius, colour in zip(scene.shapes, scene.centres, scene.radii, scene.colours):
            near = min(found, key=lambda one: np.abs(np.array(one.place) - (x, y, radius)).sum())
            assert near.shape == SHAPES[shape] and np.allclose(near.place, (x, y, radius), atol=0.1)
            assert np.allclose(near.rgb, colour, atol=0.01) and near.misfit < 0.1


def test_a_row_alone_and_both_kinds_of_pixels(true):
    prompts, _, images = true
    noisy = to_bytes(images + 0.1 * np.random.default_rng(2).standard_normal(images.shape))[:40]
    together = judge(noisy, prompts[:40])
    assert [judge(noisy[i:i + 1], prompts[i:i + 1])[0] for i in range(40)] == together
    assert [one.faults for one in judge(noisy / 255, prompts[:40])] == [one.faults for one in together]


RED, BLUE = ("red", "circle", 18, 20, 9), ("blue", "square", 44, 40, 9)
PAIR = "a red circle left of a blue square on black"


@pytest.mark.parametrize(("objects", "prompt", "faults"), [
    ((RED, BLUE), PAIR, ()), ((RED, BLUE), "a red circle above a blue square", ()),
    ((RED,), PAIR, ("number", "relation")), ((RED, BLUE, ("green", "ring", 16, 48, 8)), PAIR, ("number",)),
    ((RED, (*BLUE[:1], "triangle", *BLUE[2:])), PAIR, ("shape",)), ((RED, ("cyan", *BLUE[1:])), PAIR, ("colour",)),
    ((("blue", *RED[1:]), ("red", *BLUE[1:])), PAIR, ("colour", "relation")),
    ((RED, BLUE), "a blue square left of a red circle", ("relation",)), ((RED, BLUE), PAIR.replace("black", "white"),
                                                                          ("background",)),
    ((RED, BLUE), "a red circle inside a blue square", ("relation",)), ((RED,), "a large red circle", ("size",)),
    ((RED, BLUE), "a red circle larger than a blue square", ("relation",)), ((RED,), "a small red circle", ()),
    ((RED, RED[:2] + (18, 48, 9)), "two red circles", ()), ((RED, RED[:2] + (18, 48, 9)), "three red circles", ("number",)),
    ((RED, RED[:2] + (18, 48, 9)), "a red circle", ("number",)), ((BLUE,), "a red circle", ("colour", "shape"))])
def test_spoilt_scenes_have_known_faults(objects, prompt, faults):
    found = wrong(made(*objects), prompt)
    if objects == (("blue", *RED[1:]), ("red", *BLUE[1:])):  # colours wrong, or shapes and sides
        assert found in (("colour",), ("shape", "relation"))
    else:
        assert found == faults


def test_missing_and_extra_objects_are_counted():
    one = verdict(made(RED, BLUE, ("green", "ring", 16, 48, 8), ("cyan", "cross", 48, 14, 8)), PAIR)
    assert (one.extra, one.missing) == (2, 0) and one.colour and one.shape and one.relation
    none = judge(np.full((1, 64, 64, 3), 0.06), [PAIR])[0]
    assert none.missing == 2 and none.faults == ("number", "colour", "shape", "size", "relation") and none.residual < 1e-9


def test_objects_that_run_into_one_another_are_not_two():
    merged = made(("red", "circle", 28, 30, 9), ("red", "circle", 38, 33, 9))
    assert "number" in wrong(merged, "two red circles")


def test_a_blob_has_no_shape():
    blob = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 4)
    blob *= np.exp(-((np.arange(64) - 32) ** 2)[:, None] / 300 - ((np.arange(64) - 32) ** 2)[None] / 300)
    mask = (blob > 0.35 * blob.max())[..., None]
    image = np.where(mask, PALETTE["red"], 0.06)
    assert not judge(image[None].astype(np.float32), ["a red circle"])[0].right


def test_blur_is_an_artifact_of_edges_and_nothing_else(true):
    prompts, _, images = true
    blurred = ndimage.gaussian_filter(images, (0, 0.8, 0.8, 0))
    before, after = judge(images[:60], prompts[:60]), judge(blurred[:60], prompts[:60])
    assert np.mean([one.right for one in after]) > 0.95
    assert all(b.residual > a.residual for a, b in zip(before, after))
    assert np.sum([one.edges for one in after]) > 0.9 * np.sum([one.residual for one in after])


def test_where_the_artifacts_are():
    scene = made(("red", "circle", 32, 32, 14))
    clean = render([scene])[0]
    y, x = np.mgrid[:64, :64] + 0.5
    away = np.hypot(x - 32, y - 32)
    for part, where in (("flat", away < 11), ("ground", away > 17), ("edges", np.abs(away - 14) < 1)):
        spoilt = clean + 0.08 * np.random.default_rng(3).standard_normal(clean.shape) * where[..., None]
        one = judge(spoilt[None], ["a red circle"])[0]
        assert one.right and getattr(one, part) > 0.9 * one.residual
        assert one.edges + one.flat + one.ground == pytest.approx(one.residual)


def test_a_wrong_shade_is_residual_not_a_wrong_colour():
    scene = made(("red", "circle", 32, 32, 14))
    shifted = replace(scene, colours=scene.colours + [[-0.1, 0.1, 0.1]])
    one = verdict(shifted, "a red circle")
    assert one.right and one.flat > 0.75 * one.residual > 0 and one.decibels < 35


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("background", [0.03, 0.09, 0.42, 0.48, 0.91, 0.97])
def test_every_shape_in_every_colour_on_every_ground(colour, background):
    for shape in SHAPES:
        for radius in (5.5, 14.9):
            assert not wrong(made((colour, shape, 31.4, 32.7, radius), background=background), f"a {colour} {shape}")


def test_the_choice_of_alike_objects_favours_the_relation():
    assert not wrong(made(("red", "ring", 44, 20, 8), ("red", "ring", 16, 44, 12)), "two red rings")
    assert read("two red rings") == Request((Kind("red", "ring"),) * 2)


def test_prompts_not_of_the_world_are_refused():
    with pytest.raises(BadValue, match="unknown word 'dog'"):
        judge(np.zeros((1, 64, 64, 3)), ["a red dog"])


@pytest.mark.parametrize("images", [np.zeros((1, 32, 32, 3)), np.zeros((2, 64, 64, 3)), np.full((1, 64, 64, 3), np.nan),
                                    np.zeros((1, 3, 64, 64))])
def test_images_that_cannot_be_judged_are_refused(images):
    with pytest.raises(BadValue, match=r"the judge reads finite images \[1, 64, 64, 3\]"):
        judge(images, ["a red circle"])


def test_no_images_no_verdicts():
    assert judge(np.zeros((0, 64, 64, 3)), []) == []


def test_a_row_of_numbers():
    row = verdict(made(RED, BLUE), PAIR).row()
    assert row["right"] == 1 and set(PARTS) < set(row) and all(isinstance(value, float) for value in row.values())


def test_what_no_shape_explains_has_no_shape():
    y, x = np.mgrid[:64, :64] + 0.5
    half = ((np.hypot(x - 32, y - 32) < 16) & (x < 32))[..., None]
    assert judge(np.where(half, PALETTE["red"], 0.06)[None], ["a red circle"])[0].faults == ("shape",)
    found, = see(np.where(half, PALETTE["red"], 0.06)[None]).found[0]
    assert found.shape is None and found.colour == "red" and found.misfit > 0.4


def test_a_colour_that_is_none_has_no_name():
    scene = replace(made(("red", "circle", 32, 32, 12)), colours=np.array([[0.85, 0.6, 0.6]]))
    assert see(render([scene])).found[0][0].colour is None and wrong(scene, "a red circle") == ("colour",)


def test_where_objects_match_alike_the_relation_decides():
    two = made(("red", "square", 18, 30, 8), ("red", "square", 46, 34, 8))
    for prompt in ("a red circle left of a blue square", "a blue square left of a red circle"):
        assert wrong(two, prompt) == ("colour", "shape")


def test_an_object_that_is_cut_by_the_border_leaves_the_background():
    one = verdict(made(("blue", "square", 32, 2, 18)), "a blue square on black")
    assert one.background and one.grey == pytest.approx(0.06, abs=0.01) and one.ground < 1e-6
