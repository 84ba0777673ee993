"""Paths, toy models and solvers whose answers are known."""

import pytest
import torch

from emag.maths.predictions import SPACES
from emag.samplers import (
    Path,
    guided_prediction,
)
from exact import Gaussian, Mixture

close = torch.testing.assert_close
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normal(mean, var):
    return Gaussian(torch.tensor([float(mean)], dtype=torch.float64), torch.tensor(float(var), dtype=torch.float64))


PLAIN, WIDE = normal(1.5, 1.0), normal(0.0, 4.0)
CURVED = Mixture(torch.tensor([0.4, 0.6], dtype=torch.float64), (normal(-1.0, 0.2), normal(2.0, 0.5)))


class Toy:
    """An exact model. fields: data by branch; scale: CFG scale of its own prediction; it counts what it evaluates."""

    def __init__(self, path, space="x0", scale=1.0, seed=0, **fields):
        self.path, self.space, self.scale, self.fields = path, space, scale, fields or {"cond": PLAIN, "uncond": WIDE}
        self.latest, self.calls, self.beside, self.levels = {}, 0, 0, []
        self.generator = torch.Generator().manual_seed(seed)

    def predict(self, x, alpha, sigma):
        return {name: field.predict(x, alpha, sigma, self.space) for name, field in self.fields.items()}

    def branches_at(self, x, alpha, sigma):
        self.beside += 1
        self.levels.append((alpha, sigma))
        return self.predict(x, alpha, sigma)

    def branches(self, x, i):
        return self.branches_at(x, *self.path.at(i))

    def __call__(self, x, i):
        self.calls += 1
        self.latest = self.predict(x, *self.path.at(i))
        return guided_prediction(self.latest, self.scale, "toy") if "cond" in self.latest else x

    def noise(self, name, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


class Steady:
    """A field that predicts `value` in every space, at every x and level."""

    def __init__(self, value):
        self.value = value

    def predict(self, x, alpha, sigma, space):
        return torch.full_like(x, self.value)


def geometric(top, bottom, steps):
    """Noise levels from top to bottom in equal ratios, then 0."""
    return (*(top * (bottom / top) ** (n / (steps - 1)) for n in range(steps)), 0.0)


def path(kind, steps=8):
    if kind == "edm":
        return Path.edm(geometric(20.0, 0.1, steps))
    sigmas = [0.98 * (1 - n / steps) for n in range(steps + 1)]
    return (Path.flow if kind == "flow" else Path.variance_preserving)(tuple(sigmas))


PAIRS = [(kind, space) for kind in ("edm", "flow", "vp") for space in SPACES if path(kind).fits(space)]
every_pair = pytest.mark.parametrize(("kind", "space"), PAIRS)


def points(n=16, seed=3, shape=(1,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(model, n=16, seed=3):
    """x of x0-free noise at the first level."""
    return model.path.sigmas[0] * points(n, seed)


class Tanh:
    """A velocity that bends, for tensors of any rank."""

    def __init__(self, slope):
        self.slope = slope

    def predict(self, x, alpha, sigma, space):
        return torch.tanh(self.slope * x + sigma)
