"""Walks over made-up branches, for rules that spare an evaluation."""

import math

import pytest
import torch

import emag
from emag.core import COND, UNCOND, Step, combine, needs_null, with_null
from emag.maths.streams import Streams
from reference import tensors
from spy import Counter, attention_of
from tiny import CASES

close = torch.testing.assert_close
exact = {"atol": 1e-10, "rtol": 1e-10}
HOSTS = pytest.mark.parametrize("case", ["sd3", "true-cfg"])
COUNT = 8


def levels(path, count=COUNT):
    sigmas = tuple(0.95 - 0.1 * i for i in range(count))
    return sigmas, tuple(1 - s if path == "flow" else math.sqrt(1 - s * s) for s in sigmas)


def steps(path="vp", space="x0", count=COUNT, grid=None):
    sigmas, alphas = levels(path, count)
    return [Step(i, sigmas, alphas, sigmas[i], space, tensors(50 + i, 1)[0].double(), Streams([]), grid=grid)
            for i in range(count)]


def pairs(count=COUNT, *shape):
    """Made-up (c, u) of a run."""
    return [tuple(t.double() for t in tensors(10 + i, 2, *shape)) for i in range(count)]


def walk(rules, at, run, told=None):
    """A run of the algebra: the predictions, the unconditional ones, and the steps that evaluated one."""
    states, made, nulls, evaluated = [{} for _ in rules], [], [], []
    for step, (cond, uncond) in zip(at, run):
        p = {COND: cond, UNCOND: uncond}
        if needs_null(rules, step, states):
            evaluated.append(step.index)
        else:
            del p[UNCOND]
        p = with_null(rules, p, step, states)
        made.append(combine(rules, p[COND], p, step, states))
        nulls.append(p.get(UNCOND))
    return made, nulls, evaluated


def images(case, *rules, **more):
    """Latents, rows evaluated by every block (per image), and the finished run."""
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, *rules) as run:
        made = CASES[case].run(pipe, **more)
    rows, = set(counter.blocks.values())
    return made, rows // 2, run
