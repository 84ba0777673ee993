"""Strengths over the steps, and what their tests share."""

import math

import torch

import emag
from emag.core import COND, UNCOND, Step, combine
from emag.maths.streams import Streams
from reference import at_step, tensors

close = torch.testing.assert_close
exact = {"atol": 1e-10, "rtol": 1e-10}
FINE = 2001


def grid(count=FINE):
    """Steps evenly spread over a flow run from pure noise; x is not needed."""
    sigmas = tuple(1 - i / count for i in range(count))
    nothing = torch.empty(0)
    return [Step(i, sigmas, tuple(1 - s for s in sigmas), sigmas[i], "flow", nothing, Streams([])) for i in range(count)]


STEPS = grid()


def values(schedule, steps=STEPS):
    return [schedule.known(step) for step in steps]


def branches(seed=1, dtype=torch.float64, rows=3):
    cond, uncond = (t.to(dtype) for t in tensors(seed, 2, rows, 4, 6, 6))
    return {COND: cond, UNCOND: 0.5 * cond + uncond}


def levels(path, count):
    """Noise levels of a run; on a flow it starts at pure noise."""
    sigmas = tuple((1.0 if path == "flow" else 0.999) - i / count for i in range(count))
    return sigmas, tuple(1 - s if path == "flow" else math.sqrt(1 - s * s) for s in sigmas)


def at(path="vp", space="epsilon", index=4, rows=3, **more):
    """One of 8 steps."""
    sigmas, alphas = levels(path, 8)
    x = tensors(99, 1, rows, 4, 6, 6)[0].double()
    return at_step(path, space, x, **{"index": index, "sigmas": sigmas, "alphas": alphas, **more})


def guided(schedule, p, step, state=None):
    return combine((emag.CFG(schedule),), p[COND], p, step, [{} if state is None else state])
