"""The path of one step: the rooms of the engine that it enters are those that docs/architecture.md draws."""

import re
import sys
from pathlib import Path

import emag
from emag.engine.passes import Passes
from emag.engine.run import Run
from tiny import sd3, sd3_call

ROOT = Path(__file__).parents[2]
ENGINE = Path(emag.__file__).parent / "engine"
FOURTH = 4  # a step in the middle of a run, in which EMAG has a weak pass


class Walk:
    """Files of the engine entered, and how often one is entered from another; what is inside a pass is left out."""

    def __init__(self):
        self.rooms, self.called, self.ways, self.stack, self.inside = set(), set(), 0, [], 0

    def __call__(self, frame, event, _):
        code = frame.f_code
        if code is Passes.evaluate.__code__:
            self.inside += {"call": 1, "return": -1}.get(event, 0)
        if self.inside or Path(code.co_filename).parent != ENGINE:
            return
        if event == "call":
            room = Path(code.co_filename).name
            self.rooms.add(room)
            if self.stack and self.stack[-1] != room:
                self.ways += 1
                self.called |= {room} if self.stack[-1] == "run.py" else set()
            self.stack.append(room)
        elif event == "return" and self.stack:
            self.stack.pop()


def walked(monkeypatch):
    walk, evaluate, seen = Walk(), Run.evaluate, []

    def watched(run, *args):
        seen.append(run)
        sys.setprofile(walk if len(seen) == FOURTH else None)
        try:
            return evaluate(run, *args)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(Run, "evaluate", watched)
    pipe = sd3()
    with emag.guide(pipe, emag.EMAG(1.5, layers=(1, 2)), emag.CFG(4.0)) as run:
        pipe(**sd3_call())
    assert run.stats.effects[FOURTH - 1] is not None
    return walk


def test_the_path_of_one_step_is_the_one_drawn(monkeypatch):
    walk = walked(monkeypatch)
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## The path of one step")[2].partition("`tests/")[0]
    drawn, told = text.split("```")[1:]
    assert walk.rooms == set(re.findall(r"engine/(\w+\.py)", drawn))
    told = " ".join(told.split())
    rooms, called, ways = re.findall(r"network: (\d+), of which `run.py` itself calls (\d+), with (\d+)", told)[0]
    assert (int(rooms), int(called)) == (len(walk.rooms), len(walk.called)) and int(ways) >= walk.ways
