"""Particles, and how far they miss a distribution."""

import math

import torch

from emag.samplers import (
    Path,
    sample,
)
from paths import Toy, geometric, start

GROUPS, PARTICLES = 16, 1024


def misses(x, mean, var):
    """Distance of the mean of x, or its mean square about `mean`, to the truth, in standard errors of 4096 particles.

    The error is measured between 16 independent groups: it holds what resampling adds.
    """
    groups = x.view(GROUPS, -1)
    found = torch.stack([groups.mean(1), (groups - mean).square().mean(1)])
    error = found.std(1) * math.sqrt(groups.shape[1] / 4096)
    return ((found.mean(1) - torch.tensor([mean, var])).abs() / error).max().item()


def run(how=None, scale=1.0, steps=480, **fields):
    """16 groups of 1024 particles; `how` is a Feynman-Kac corrector, or a solver alone."""
    model = Toy(Path.edm(geometric(20.0, 0.05, steps)), "x0", scale, **fields)
    x = start(model, GROUPS * PARTICLES)
    return sample(model, x, solver=how) if how is None or how.kind == "solver" else sample(model, x, how, solver=how.solver)
