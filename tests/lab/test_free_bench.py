"""bench/free.py: no method that says it costs nothing is left out of what is timed, but those it names."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import free
from emag.lab.pages.catalogue import catalogue
from emag.samplers import SOLVERS
from overhead import shaped
from timed.shapes import Call, pipeline


@pytest.fixture(scope="module")
def call():
    return Call(shaped(4, 64, 16, 5), 1, "cpu", torch.float32)


def test_every_method_without_evaluations_is_timed_or_excused(call):
    wanted = {method["name"] for method in catalogue() if method["cost"].startswith("none")}
    timed = {*free.methods(call.shape, call), *(name for name, solver in SOLVERS.items() if solver.cost == "none")}
    assert timed | set(free.UNTIMED) == wanted
    assert timed & set(free.UNTIMED) == {"euler"}


@pytest.mark.slow
def test_a_line_is_two_ratios_to_cfg(call):
    pipe = pipeline(call.shape, "cpu", torch.float32)
    lines = list(free.lines(pipe, call, 2, 1, "recfg,momentum,cfg++-2m"))
    assert [name for name, *_ in lines] == ["recfg", "momentum", "cfg++-2m"]
    assert all(whole > 0 and outside > 0 and alone for _, whole, outside, alone in lines)
