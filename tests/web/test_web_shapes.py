"""The page on the world of shapes: its own defaults, and a verdict under each picture."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emag.hosts.load import MODELS
from emag.lab.draw.sampling import DrawSettings
from emag.lab.web import truth
from emag.lab.web.job import Ask, Drawing, Sight
from emag.lab.web.model import opened
from emag.lab.web.price import price
from emag.lab.web.row import seed_grid
from emag.lab.web.stack import parse
from emag.worlds.shapes import read, render, to_bytes
from emag.worlds.shapes.draw import place

pytestmark = pytest.mark.skipif("shapes" not in MODELS, reason="its weights are not in this package")


@pytest.fixture(scope="module")
def model():
    return opened("shapes")


def drawn(prompt):
    """A picture of the world itself, as a prompt asks."""
    return Image.fromarray(to_bytes(render([place(read(prompt), np.random.default_rng(0))]))[0])


def test_what_it_is_asked_at_first_is_of_its_world(model):
    ask = Ask(model.example, parse("emag=1.5"), settings=DrawSettings())
    assert read(ask.prompt) and (model.steps, model.scale) == (28, 3.0)
    assert price(model, ask.rules, ask.jobs[0], ask.settings).extra > 0


def test_a_picture_is_judged_by_its_prompt(model):
    image = drawn(model.example)
    assert truth.faults_of(model, model.example, [image]) == [()]
    asked = "a green circle above a blue square"
    assert truth.faults_of(model, asked, [image, drawn(asked)]) == [("red, asked green",), ()]


def test_where_nobody_can_judge_nothing_is_said(model):
    assert truth.faults_of(model, "circle circle", [drawn(model.example)]) is None
    assert truth.faults_of(opened("tiny"), model.example, [drawn(model.example)]) is None


def test_each_picture_of_a_run_has_its_own_verdict(model):
    right, wrong = drawn(model.example), drawn("a green circle above a blue square")
    sight = Sight(Ask(model.example), *(Drawing((one,), ({},)) for one in (wrong, right)))
    assert truth.verdicts(model, sight) == {"plain": ("green, asked red",), "guided": ()}
    assert list(truth.verdicts(model, replace(sight, weak=sight.plain))) == ["plain", "guided", "weak"]


def test_a_grid_has_verdicts_below(model):
    ask = Ask(model.example, parse("emag=1.5"), settings=DrawSettings(2), seeds=(8, 9))
    grid = seed_grid(model, ask, lambda *told: None, threading.Event())
    colours = {colour for _, colour in grid.getcolors(1 << 24)}
    assert colours & {(22, 134, 62), (200, 38, 38)}  # a frame in the colour of its verdict
