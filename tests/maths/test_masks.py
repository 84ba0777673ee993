"""Masks as strings: coverage, partitions of unity, shapes, products, complements, given masks, packed latents."""

import pytest
import torch
from diffusers import FluxPipeline

from emag.errors import BadValue
from emag.maths.layout import unpack
from emag.maths.masks import evaluate_mask, mask_names, read_mask
from reference import at_step

close = torch.testing.assert_close
IMAGE, VIDEO, SOUND = (2, 4, 6, 8), (2, 4, 5, 6, 8), (2, 4, 10)


def drawn(mask, shape=IMAGE, dtype=torch.float64, **given):
    """A mask on latents of `shape`, by itself."""
    like = torch.zeros(shape, dtype=dtype)
    return evaluate_mask(mask, like, at_step(x=like, masks=given))


@pytest.mark.parametrize("shape", [IMAGE, VIDEO, (1, 3, 5, 7)], ids=str)
def test_a_box_covers_its_share(shape):
    box = drawn("box:0.1:0.25:0.65:0.8", shape)
    assert box.shape == (1, 1, *shape[2:])
    close(box.mean(), torch.tensor(0.55 * 0.55).double())
    assert box.min() == 0 and box.max() <= 1


def test_a_box_is_x_across_and_y_down():
    box = drawn("box:0:0.5:0.25:1", (1, 1, 4, 8))[0, 0]
    expected = torch.zeros(4, 8).double()
    expected[2:, :2] = 1
    assert torch.equal(box, expected)


def test_a_box_that_cuts_a_cell_counts_it_in_part():
    box = drawn("box:0:0:0.3:1", (1, 1, 1, 4))[0, 0, 0]
    close(box, torch.tensor([1, 0.2, 0, 0]).double())


@pytest.mark.parametrize("mask", ["box:0.2:0.1:0.7:0.9", "bump:0.3:0.6:0.2"])
def test_the_grid_does_not_matter(mask):
    """A mask on a fine grid, averaged over the cells of a coarse one, is the mask on the coarse one."""
    coarse, fine = drawn(mask, (1, 1, 10, 10)), drawn(mask, (1, 1, 160, 160))
    pooled = torch.nn.functional.avg_pool2d(fine, 16)
    close(pooled, coarse, atol=1e-12 if mask.startswith("box") else 2.5e-2, rtol=0)


@pytest.mark.parametrize("shape", [IMAGE, VIDEO, (1, 3, 5, 7)], ids=str)
def test_boxes_that_share_their_edges_add_up_to_one(shape):
    parts = ["box:0:0:0.37:0.61", "box:0.37:0:1:0.61", "box:0:0.61:1:1"]
    total = sum(drawn(part, shape) for part in parts)
    close(total, torch.ones_like(total), atol=1e-14, rtol=0)


def test_a_bump_is_a_gaussian_of_peak_one():
    rows = (torch.arange(9).double() + 0.5) / 9
    distance = (rows[:, None] - 0.5) ** 2 + (rows - 0.5) ** 2
    bump = drawn("bump:0.5:0.5:0.2", (1, 1, 9, 9))[0, 0]
    close(bump, torch.exp(-distance / (2 * 0.2**2)))
    assert bump[4, 4] == 1
    sideways = drawn("bump:0.25:0.5:0.1", (1, 1, 9, 8))[0, 0]
    assert sideways.argmax() % 8 in (1, 2) and sideways.argmax() // 8 == 4


@pytest.mark.parametrize(("shape", "at"), [(VIDEO, 2), (SOUND, 2)])
def test_frames_are_a_part_of_the_length(shape, at):
    mask = drawn("frames:0.2:0.6", shape)
    assert mask.shape == (1, 1, *shape[2:])
    inside = mask.movedim(at, 0).flatten(1)
    count = shape[at]
    assert (inside[count // 5:3 * count // 5] == 1).all() and inside.sum() == inside.shape[1] * 2 * count // 5


def test_the_same_picture_in_every_frame():
    video = drawn("box:0.1:0.2:0.8:0.9", VIDEO)
    close(video, drawn("box:0.1:0.2:0.8:0.9", IMAGE)[:, :, None].expand_as(video))


@pytest.mark.parametrize("shape", [IMAGE, VIDEO], ids=str)
def test_the_rest_completes_a_sum(shape):
    a, b = "box:0:0:0.3:0.4", "bump:0.9:0.9:0.1"
    total = drawn(a, shape) + drawn(b, shape) + drawn(f"rest:{a}+{b}", shape)
    close(total, torch.ones_like(total))
    overlapping = drawn(f"rest:{a}+{a}", shape)
    assert overlapping.min() == 0 and overlapping.max() == 1


def test_products_multiply():
    close(drawn("box:0:0:0.5:1 * frames:0:0.5", VIDEO), drawn("box:0:0:0.5:1", VIDEO) * drawn("frames:0:0.5", VIDEO))
    close(drawn("rest:box:0:0:0.5:1*frames:0:0.5", VIDEO),
          (1 - drawn("box:0:0:0.5:1", VIDEO)) * drawn("frames:0:0.5", VIDEO))


@pytest.mark.parametrize(("shape", "mask"), [
    (IMAGE, (6, 8)), (IMAGE, (1, 6, 8)), (IMAGE, (2, 6, 8)), (VIDEO, (5, 6, 8)), (VIDEO, (2, 5, 6, 8)), (VIDEO, (6, 8)),
    (SOUND, (10,)), (SOUND, (2, 10))], ids=str)
def test_a_given_mask_of_the_right_size_is_taken_as_it_is(shape, mask):
    given = torch.rand(mask, dtype=torch.float64)
    found = drawn("mine", shape, mine=given)
    expected = given.expand(shape[2:]) if given.ndim <= len(shape) - 2 else given[:, None]
    close(found, expected.reshape(found.shape[0], 1, *expected.shape[-(len(shape) - 2):]).expand_as(found))


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (7, 5), (64, 64), (1, 1)], ids=str)
def test_resizing_keeps_sums_and_bounds(size):
    first = torch.rand(size, dtype=torch.float64)
    a, b = drawn("a", a=first), drawn("b", b=1 - first)
    close(a + b, torch.ones_like(a))
    assert a.shape == (1, 1, 6, 8) and a.min() >= 0 and a.max() <= 1
    if size == (12, 16):
        close(a[0, 0], torch.nn.functional.avg_pool2d(first[None, None], 2)[0, 0])


def test_a_mask_of_booleans_is_a_mask():
    assert torch.equal(drawn("m", m=torch.eye(6, 8).bool()), drawn("m", m=torch.eye(6, 8)))


def test_each_image_has_its_own():
    given = torch.rand(2, 6, 8)
    both = drawn("m", m=given)
    assert both.shape == (2, 1, 6, 8)
    for i in range(2):
        close(both[i:i + 1], drawn("m", (1, 4, 6, 8), m=given[i:i + 1]))


@pytest.mark.parametrize("mask", ["box:0.1:0:0.5:0.7", "bump:0.2:0.4:0.3", "mine", "rest:mine*box:0:0:1:0.5"])
def test_packed_latents_get_the_picture_of_the_unpacked(mask):
    image = torch.zeros(2, 4, 6, 10, dtype=torch.float64)
    given = {"mine": torch.rand(2, 3, 5)}
    packed = FluxPipeline._pack_latents(image, 2, 4, 6, 10)
    step = at_step(x=packed, grid=(3, 5, 2), masks=given)
    found = evaluate_mask(mask, packed, step)
    assert found.shape[1:] == packed.shape[1:]
    plain = evaluate_mask(mask, image, at_step(x=image, masks=given))
    close(unpack(found, step), plain.expand(len(found), 4, 6, 10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mask", ["box:0:0:0.4:1", "m", "bump:0.5:0.5:0.01"])
def test_the_dtype_is_that_of_the_latents(dtype, mask):
    found = drawn(mask, dtype=dtype, m=torch.rand(3, 3))
    assert found.dtype == dtype and found.isfinite().all()


@pytest.mark.parametrize("bad", [
    "", "box", "box:0:0:1", "box:0:0:1:1:1", "box:0.5:0:0.5:1", "box:-0.1:0:1:1", "box:0:0:1:1.1", "box:a:0:1:1",
    "box:nan:0:1:1",
    "bump:0.5:0.5:0", "bump:0.5:0.5:inf", "bump:inf:0.5:1", "bump:0.5:0.5", "frames:0.5:0.2", "frames:0:2", "left:1", "rest",
    "rest:", "rest:rest:a", "a*", "*a", "a b", "1a", "a+b", "rest:a+", None, 3])
def test_what_is_no_mask_is_refused(bad):
    with pytest.raises(BadValue) as error:
        read_mask(bad)
    assert "\n" not in str(error.value)


def test_the_names_to_be_given():
    assert mask_names("left*box:0:0:1:1*rest:right+bump:0.5:0.5:1") == ("left", "right")
    assert mask_names("box:0:0:1:1") == ()


@pytest.mark.parametrize(("mask", "shape", "says"), [
    ("frames:0:0.5", IMAGE, "single images"), ("box:0:0:1:1", SOUND, "frames:a:b"), ("bump:0:0:1", SOUND, "frames:a:b"),
    ("left", IMAGE, r"masks=\{'left'"), ("wide", IMAGE, r"\(3, 6, 8\)"), ("flat", IMAGE, "height, width"),
    ("flat", VIDEO, "frames"), ("wide", SOUND, "length")])
def test_what_does_not_fit_the_latents_is_refused(mask, shape, says):
    with pytest.raises(BadValue, match=says):
        drawn(mask, shape, wide=torch.zeros(3, 6, 8), flat=torch.zeros(6))
