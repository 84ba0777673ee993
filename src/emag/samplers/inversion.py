"""From an image to the noise it would be made of: the steps of CFG++, or of CFG, undone one after the other."""

from typing import Literal, get_args

import torch

from ..errors import BadValue, Unsupported
from ..maths.predictions import Space, convert, to_x0
from .base import GuidedModel, guided_prediction
from .path import Path
from .solvers import to_epsilon

InvertedSteps = Literal["cfg++", "cfg"]


def invert(model: GuidedModel, x: torch.Tensor, scale: float = 0.6, steps: InvertedSteps = "cfg++",
           iterations: int = 0) -> torch.Tensor:
    """x [batch, ...] at the first level of the model's path, from x at the last: inversion by CFG++, arXiv 2406.08070.

    A step of CFG++ is x' = alpha' x0(g) + sigma' epsilon(u), g = u + scale (c - u). Its inverse with both predictions held
    is x = alpha (x' - sigma' epsilon(u)) / alpha' + sigma epsilon(g): the noise that is added is the guided one. They are
    evaluated at the level that is gone to, as the authors' code does, but at x', since x is not known yet. So an image comes
    back about, and by CFG++ nearer than by CFG at w 7.5 where the condition picks one kind of image out of many (by a
    third on the embedded model), though not on all data. To come back, sample with `CFGppEuler` (or CFG under the scale
    `CFGpp`) at the same scale; for "cfg" with CFG and Euler.

    scale: lambda, at least 0; for "cfg" w. steps: whose steps are undone. iterations: how often predictions are made again
    at the x that was found, 0 being published: where they settle, the step is undone exactly. Costs 2 evaluations a step,
    times iterations + 1. x0 predictions are held as the noise that they say. Raises `BadValue` for values out of range, and
    `Unsupported` without "uncond", for a model with rules, which act on steps and would have no effect, and for epsilon and
    x0 predictions on a path from alpha 0, where noise tells no image.

    >>> import torch, emag
    >>> conditions, path = {"cond": 1.0, "uncond": 0.0}, (1.0, 0.5, 0.0)
    >>> model = emag.guided(lambda x, sigma, condition: torch.full_like(x, condition), path=path, conditions=conditions)
    >>> noise = emag.invert(model, torch.zeros(1, 4))
    >>> emag.sample(model, noise, solver=emag.CFGppEuler()).abs().max() < 1e-6
    tensor(True)
    """
    _check(model, scale, steps, iterations)
    for i in reversed(range(len(model.path))):
        x = _step_back(model, x, i, scale, steps, iterations)
    return x


def _step_back(model: GuidedModel, x: torch.Tensor, i: int, scale: float, steps: InvertedSteps,
               iterations: int) -> torch.Tensor:
    """x at level i, from x at level i + 1."""
    found, space = x, _held(model.space)
    for _ in range(iterations + 1):
        at = (found, *model.path.at(i), model.space, space)
        held = {name: convert(pred, *at) for name, pred in model.branches(found, i).items()}
        guided = guided_prediction(held, scale, "invert")
        kept = guided_prediction(held, 0.0, "invert") if steps == "cfg++" else guided
        found = step_undone(x, guided, kept, model.path, i, space)
    return found


def _held(space: Space) -> Space:
    """Where predictions stay as they are while x is sought: x0 held would make a step forget x."""
    return "epsilon" if space == "x0" else space


def step_undone(x: torch.Tensor, guided: torch.Tensor, kept: torch.Tensor, path: Path, i: int, space: Space) -> torch.Tensor:
    """x [batch, ...] at level i whose step alpha' x0(guided) + sigma' epsilon(kept) is `x`, both predictions held."""
    (alpha, sigma), (after, rest) = path.at(i), path.at(i + 1)

    def step(y: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return after * to_x0(clean, y, alpha, sigma, space) + rest * to_epsilon(noise, y, alpha, sigma, space)

    # a step is linear in (x, guided, kept): what it makes of x alone is a factor
    none, one = torch.zeros_like(x), x.new_ones(1)
    factor = step(one, torch.zeros_like(one), torch.zeros_like(one))
    return (x - step(none, guided, kept)) / factor


def _check(model: GuidedModel, scale: float, steps: InvertedSteps, iterations: int) -> None:
    if steps not in get_args(InvertedSteps):
        raise BadValue(f"invert undoes steps of {' or '.join(get_args(InvertedSteps))}, got {steps!r}")
    if not 0 <= scale < float("inf"):
        raise BadValue(f"invert scale must be finite and at least 0, got {scale}")
    if not isinstance(iterations, int) or iterations < 0:
        raise BadValue(f"invert iterations must be a whole number of at least 0, got {iterations!r}")
    rule = next((rule.name for rule in getattr(model, "rules", ())), None)
    if rule:
        raise Unsupported(f"invert undoes the steps of plain predictions by its own scale, and {rule} would have no effect: "
                          "give it a model without rules")
    if not model.path.fits(model.space):
        raise BadValue(f"{model.space} predictions do not fit this path")
    if _held(model.space) == "epsilon" and model.path.alphas[0] == 0:
        raise Unsupported(f"invert holds {model.space} predictions as noise, which tells no image at alpha 0: begin the "
                          "path below pure noise")
