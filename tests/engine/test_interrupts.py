"""Ctrl-C at any instruction leaves nothing behind: no class swapped, no lock held, no attribute, hook or mode."""

import random
import sys

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

import emag
from emag.engine import lock
from emag.engine.undo import Undo, patch, undone
from emag.schedules import Interval
from emag.testing.cases import every
from interrupts import PACKAGE, Interrupter
from spy import changes, snapshot
from tiny import CASES

ENDS = ("hosts/block.py", "hosts/swapped.py", "engine/undo.py", "engine/lock.py")
"""What begins and ends a block and a run."""
AROUND = (PACKAGE, "torch/overrides.py", "contextlib.py")
CALL = {"seeds": (8,), "num_inference_steps": 2}
WINDOW = emag.Window.progress(0, 0.2, 1.0)
RULES = (emag.CADS(0.3, 0.2, 0.9, 0.5), emag.EMAG(1.5, layers=(0, 1), window=WINDOW), emag.CFG(3.0))


@pytest.fixture(autouse=True)
def _finalizers_may_be_interrupted(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda found: None)


def guided(case, pipe, rules=RULES):
    with emag.guide(pipe, *rules) as run:
        images = case.run(pipe, **CALL)
    return images, run


def left(pipe, before):
    """What is left: names of changes, locks and modes."""
    modes = [mode for mode in _get_current_function_mode_stack() if not getattr(mode, "over", False)]
    return [*changes(before, snapshot(pipe), own=False), *(["a lock"] if len(lock._owners) else []), *map(repr, modes)]


def swept(case, pipe, only, count, seed=0, rules=RULES, opcodes=True):
    """Interrupt at `count` random places (None: at every one); those that left something, and what."""
    expected, _ = guided(case, pipe, rules)
    before, found = snapshot(pipe), {}
    counter = Interrupter(None, only, opcodes)
    counter.run(lambda: guided(case, pipe, rules))
    every_one = range(1, counter.seen + 1)
    for at in every_one if count is None else random.Random(seed).sample(every_one, min(count, counter.seen)):
        Interrupter(at, only, opcodes).run(lambda: guided(case, pipe, rules))
        if remains := left(pipe, before):
            found[at] = remains[:3]
            break
    assert found or torch.equal(guided(case, pipe, rules)[0], expected)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("only", "count"), [(ENDS, 30), (AROUND, 20)], ids=["ends", "anywhere"])
@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_an_interrupt_anywhere_leaves_nothing(name, only, count):
    case = CASES[name]
    assert swept(case, case.pipe(layers=2), only, count) == {}


@pytest.mark.slow
def test_an_interrupt_leaves_nothing_while_its_traceback_is_held():
    """As a notebook holds it: what hangs on the frames of the block is not let go of."""
    case, pipe = CASES["sd3"], CASES["sd3"].pipe(layers=2)
    counter = Interrupter(None, ("hosts/block.py", "hosts/swapped.py"))
    counter.run(lambda: guided(case, pipe, ()))
    cls, kept, odd = type(pipe), [], []
    for at in range(1, counter.seen + 1):
        sys.settrace(Interrupter(at, ("hosts/block.py", "hosts/swapped.py"))._entered)
        try:
            guided(case, pipe, ())
        except KeyboardInterrupt as error:
            kept.append(error)
        finally:
            sys.settrace(None)
        if type(pipe) is not cls and getattr(type(pipe), "_emag_open", False):
            odd.append(at)
        del kept[:-1]
    assert kept and odd == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_an_interrupt_at_every_instruction_of_the_ends_leaves_nothing(name):
    case = CASES[name]
    assert swept(case, case.pipe(layers=2), ENDS, None) == {}


@pytest.mark.long
@pytest.mark.parametrize("name", every())
def test_an_interrupt_anywhere_leaves_nothing_on_any_pipeline(name):
    case = every()[name]
    if name == "wan-vace":
        pytest.skip("covered by wan; it is slow")
    rules = (emag.EMAG(1.5, layers=(1,)), *((emag.CFG(Interval(3.0, 0.0, 1.0, "progress")),) if case.uncond else ()))
    pipe = case.pipe()
    try:
        guided(case, pipe, rules)
    except emag.EmagError:
        rules = rules[1:]
    assert swept(case, pipe, (PACKAGE, "diffusers/"), 60, rules=rules, opcodes=False) == {}


class Held:
    pass


def test_ways_back_may_be_begun_again_and_changes_never_made():
    target, undo = Held(), Undo()
    target.forward = "own"
    patch(undo, target, "forward", "first")
    patch(undo, target, "forward", "second")
    back = list(undo._back)
    undo.close()
    assert target.forward == "own"
    undo._back = list(back)  # cut short before anything was crossed off
    undo.close()
    assert target.forward == "own"
    undo.callback(back[0][0], *back[0][1])  # written down, and never made
    undo.close()
    assert target.forward == "own"


@pytest.mark.parametrize("at", range(1, 120))
def test_undone_takes_back_whatever_instruction_is_interrupted(at):
    target = Held()

    def work(undo):
        patch(undo, target, "a", 1)
        patch(undo, target, "b", 2)

    Interrupter(at, ("engine/undo.py",)).run(lambda: undone(work))
    assert vars(target) == {}
