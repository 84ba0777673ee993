"""One run of the page: three pictures of one seed, told of as they form, stopped at any step, and nothing left behind."""

import threading

import numpy as np
import pytest
import torch

import emag
from emag.lab.draw.sampling import DrawSettings, arguments, draw_images
from emag.lab.web.job import Ask, see, weak_of
from emag.lab.web.model import opened
from emag.lab.web.stack import parse
from emag.lab.web.stream import Streamed
from emag.lab.web.watch import Stopped
from emag.records.png import same_pixels


@pytest.fixture(scope="module")
def model():
    return opened("tiny")


def ask_for(text, steps=4, **more):
    return Ask("a photo of a ship", parse(text), settings=DrawSettings(steps), **more)


def silent(*told):
    pass


def state(model):
    """Whatever a run might leave on the pipeline and its modules."""
    modules = {name: {key: value for key, value in vars(one).items() if not key.startswith("_non")}
               for name, one in model.pipe.transformer.named_modules()}
    hooks = {name: (len(one._forward_hooks), len(one._forward_pre_hooks), one.forward)
             for name, one in model.pipe.transformer.named_modules()}
    held = {name: sorted(held) for name, held in modules.items()}
    return type(model.pipe), held, hooks, [name for name, value in vars(model.pipe.scheduler).items() if callable(value)]


def test_the_three_pictures_are_those_of_guide(model):
    ask = ask_for("emag=1.5 seg=1.2")
    sight = see(model, ask, silent, threading.Event())
    call = arguments(model.pipe, ask.jobs, ask.settings)
    weak = weak_of(ask.rules)
    assert [rule.scale for rule in weak] == [0.0] and weak[0].name == "emag"
    for drawn, rules in ((sight.plain, ()), (sight.guided, ask.rules), (sight.weak, weak)):
        made, run = draw_images(model.pipe, call, [8], rules)
        assert same_pixels(made[0], drawn.images[0]) and drawn.records[0] == {**run.record, "row": 0}
    assert not same_pixels(sight.plain.images[0], sight.guided.images[0])


def test_without_a_rule_that_acts_guided_is_plain(model):
    for text in ("", "emag=1"):
        sight = see(model, ask_for(text), silent, threading.Event())
        assert same_pixels(sight.plain.images[0], sight.guided.images[0])
    assert see(model, ask_for("apg=4"), silent, threading.Event()).weak is None


def test_the_size_of_each_step_is_what_the_rule_did(model):
    """A push of w - 1 times the difference: twice the push is twice as large, and a rule at 1 is not in the list."""
    one, two = (see(model, ask_for(f"seg={w}", 2), silent, threading.Event()).guided.sizes["1 seg"] for w in (1.2, 1.4))
    assert two[0] == pytest.approx(2 * one[0], rel=1e-4) and one[0] > 0
    both = see(model, ask_for("seg=1.2 slg=1 cfg=1.5", 2), silent, threading.Event()).guided.sizes
    assert list(both) == ["1 seg", "2 cfg"] and all(len(row) == 2 for row in both.values())


def test_measuring_changes_no_rule_and_no_picture(model):
    rule = emag.SEG(1.2)
    ask = Ask("a photo of a ship", (rule,), settings=DrawSettings(2))
    see(model, ask, silent, threading.Event())
    assert "apply" not in vars(rule)


def test_it_is_told_of_step_by_step_with_pictures(model):
    told = []
    see(model, ask_for("emag=1.5", 8), lambda *one: told.append(one), threading.Event())
    assert [one[:3] for one in told] == [(what, step, 8) for what in ("plain", "guided", "weak") for step in range(1, 9)]
    pictures = [one[3] for one in told if one[0] == "guided" and one[3] is not None]
    assert len(pictures) == 6 and pictures[0].size == (32, 32)


def test_the_last_picture_on_the_way_is_the_end(model):
    """At the last step x0 of the prediction is what a first-order sampler ends at."""
    told = []
    sight = see(model, ask_for("cfg=2", 6), lambda *one: told.append(one), threading.Event())
    last = next(one[3] for one in reversed(told) if one[0] == "guided")
    assert np.abs(np.asarray(last, float) - np.asarray(sight.guided.images[0], float)).mean() < 1


@pytest.mark.parametrize("at", [("plain", 2), ("guided", 1), ("guided", 3), ("weak", 2)])
def test_stopped_anywhere_the_network_is_as_before(model, at):
    before, stop = state(model), threading.Event()

    def tell(what, step, steps, picture):
        if (what, step) == at:
            stop.set()

    with pytest.raises(Stopped):
        see(model, ask_for("emag=1.5 apg=3"), tell, stop)
    assert state(model) == before and not model.lock.locked()


def test_an_error_leaves_nothing_behind(model):
    before = state(model)
    with pytest.raises(emag.BadValue):
        see(model, ask_for("emag=1.5,layers=99"), silent, threading.Event())
    with pytest.raises(ZeroDivisionError):
        see(model, ask_for("emag=1.5"), lambda *told: 1 / 0, threading.Event())
    assert state(model) == before and not model.lock.locked()


def test_who_waits_for_the_model_can_stop(model):
    stop = threading.Event()
    stop.set()
    with model.lock, pytest.raises(Stopped, match="waiting"):
        see(model, ask_for("emag=1.5"), silent, stop)


def test_a_stream_tells_and_ends(model):
    found = Streamed(lambda tell: [tell(i) for i in range(3)], threading.Event())
    assert [one for one in found if one is not None] == [0, 1, 2] and found.result == [None] * 3

    def fails(tell):
        tell(1)
        raise KeyError("x")

    broken, seen = Streamed(fails, threading.Event()), []
    with pytest.raises(KeyError):
        seen.extend(broken)
    assert not broken.thread.is_alive()


@pytest.mark.slow
def test_a_silent_work_gives_the_listener_its_turn():
    """Whoever has gone cannot be found out between two items otherwise."""
    end = threading.Event()
    work = Streamed(lambda tell: end.wait(30), end)
    listened = iter(work)
    assert next(listened) is None and not work.thread.is_alive() and next(listened) is None and work.thread.is_alive()
    end.set()
    assert not [one for one in listened if one is not None]


def test_who_stops_listening_ends_the_work(model):
    stop, before = threading.Event(), state(model)
    work = Streamed(lambda tell: see(model, ask_for("emag=1.5", 50), lambda *told: tell(told), stop), stop)
    listened = iter(work)
    next(one for one in listened if one is not None)
    listened.close()
    assert isinstance(work.error, Stopped) and not work.thread.is_alive() and state(model) == before


def test_the_seeds_of_a_row_are_the_seeds(model):
    two = see(model, ask_for("emag=1.5", seeds=(8, 9)), silent, threading.Event()).guided
    one = see(model, ask_for("emag=1.5", seeds=(9,)), silent, threading.Event()).guided
    pixels = [torch.from_numpy(np.asarray(image, dtype="float32")) for image in (two.images[1], one.images[0])]
    assert torch.allclose(*pixels, atol=1)
