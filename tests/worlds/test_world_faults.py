"""What is wrong in words, and the sheet that says it under each image."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from emag.lab.draw.judged import GREEN, LINES, RED, Cell, Heading, _words, judged_sheet
from emag.worlds.shapes import render, to_bytes
from emag.worlds.shapes.faults import faults
from emag.worlds.shapes.verdict import judge
from test_world_judge import made, scenes, verdict

RING, SQUARE, HELD = ("red", "ring", 16, 20, 8), ("blue", "square", 46, 44, 8), ("yellow", "circle", 46, 20, 6)


@pytest.mark.parametrize(("objects", "prompt", "says"), [
    ((RING, RING[:2] + (46, 44, 8)), "three red rings", ("2 rings, asked 3",)),
    ((RING,), "two red rings", ("1 ring, asked 2",)),
    ((RING, SQUARE), "two red rings", ("blue, asked red", "square, asked ring")),
    ((RING,), "a red ring and a blue square", ("no blue square",)),
    ((RING, SQUARE, HELD), "a red ring and a blue square", ("1 too many",)),
    ((RING,), "a green ring", ("red, asked green",)), ((RING,), "a red cross", ("ring, asked cross",)),
    ((RING,), "a large red ring", ("small, asked large",)),
    ((RING, SQUARE), "a blue square left of a red ring", ("not left of",)),
    ((RING,), "a red ring on white", ("on black, asked white",)), ((RING,), "a red ring on black", ())])
def test_known_faults_in_words(objects, prompt, says):
    assert faults(prompt, verdict(made(*objects), prompt)) == says


def test_a_lump_on_an_object_is_no_further_object():
    lumpy = made(("red", "circle", 30, 30, 14), ("red", "circle", 44, 40, 6), ("red", "circle", 17, 22, 5))
    one = verdict(lumpy, "a red circle")
    apart = verdict(made(("red", "circle", 20, 20, 9), ("red", "circle", 45, 45, 9)), "a red circle")
    assert one.extra and faults("a red circle", one)[0] == "uneven circle"
    assert faults("a red circle", apart) == ("2 circles, asked 1",)


def test_nothing_there():
    blank = np.full((1, 64, 64, 3), 0.06)
    assert faults("a red ring", judge(blank, ["a red ring"])[0])[0] == "nothing there"


def test_words_are_there_exactly_where_something_is_wrong():
    prompts, placed = scenes(120, seed=3)
    images = to_bytes(render(placed))
    for asked in (prompts, prompts[1:] + prompts[:1]):  # their own prompts, then each other's
        for prompt, one in zip(asked, judge(images, asked)):
            assert bool(faults(prompt, one)) == (not one.right)


def page(rows):
    return np.asarray(judged_sheet(rows, [Heading("none"), Heading("CFG", "1 x", "group")], ["a red ring"], "title", 64))


def test_a_cell_is_framed_by_what_it_is_and_an_image_is_not_changed():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sheet = page([[Cell(image), Cell(image, ("red, asked green",))]])
    good = page([[Cell(image), Cell(image, ())]])
    assert (sheet == RED).all(-1).any() and not (sheet == GREEN).all(-1)[120:].any()
    assert (good == GREEN).all(-1).any() and not (good == RED).all(-1)[120:].any()
    assert (page([[Cell(image), Cell(image)]]) == 255).all(-1)[60:90].any()
    tiles = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (64, 64))
    assert int((tiles == np.asarray(image)[..., 0]).all((-1, -2)).sum()) == 2


def test_words_have_room():
    many = ("5 objects, asked 3", "purple, asked yellow", "unclear shape, asked triangle", "on white, asked black")
    for count in range(1, 5):
        lines = _words(many[:count], 108).split("\n")
        assert len(lines) <= LINES and all(ImageFont.load_default(14).getlength(line) <= 112 for line in lines)
    assert "+3 more" in _words(many, 160).replace("\n", " ") and "more" not in _words(many[:1], 108)
