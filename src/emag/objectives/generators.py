"""Score distillation of a generator (SiD): its loss, and under which guidance its two networks stand in it."""

import math

import torch

from ..errors import BadValue
from ..maths.vectors import extrapolate, widened

CondAndNull = tuple[torch.Tensor, torch.Tensor]
"""x0 [batch, ...] of one network, under the condition and without it."""


def sid_loss(real: torch.Tensor, fake: torch.Tensor, made: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    r"""SiD's generator loss (arXiv 2406.01561): $\langle y_r - y_f, (y_r - x_g) - \alpha (y_r - y_f) \rangle$.

    real, fake: x0 [batch, ...] of the teacher and of the network trained on the generator's pictures, each under a
    guidance of its own (equal scales: LSG; the teacher without and the fake network without a text: Zero-CFG). made: x_g,
    the generator's. Gradients go wherever the arguments have them, as in the paper; the weighting of the authors' code is
    left to the caller.
    """
    away = widened(real) - widened(fake)
    return (away * ((widened(real) - widened(made)) - alpha * away)).flatten(1).sum(1).mean()


def sid_branches(form: str, teacher: CondAndNull, fake: CondAndNull, scale: float | None = None) -> CondAndNull:
    """Both networks of `sid_loss` under the guidance of a form: its `real` and `fake`; w of u + w (c - u).

    form: "lsg" (arXiv 2406.01561), both at `scale`, default 2. "zero-cfg" (arXiv 2505.12674), the teacher without
    guidance, the fake network without a text. "anti-cfg" (the same), the fake network at a negative `scale`; its published
    value is unknown, so it is asked for, and the teacher without guidance is an untested default. Raises `BadValue`.
    """
    scales = _scales(form, scale)
    real, made = (extrapolate(widened(u), widened(c), w) for (c, u), w in zip((teacher, fake), scales))
    return real, made


def _scales(form: str, scale: float | None) -> tuple[float, float]:
    """Of the teacher and of the fake network."""
    if form == "lsg":
        return (2.0, 2.0) if scale is None else (scale, scale)
    if form == "zero-cfg" and scale is None:
        return 1.0, 0.0
    if form == "anti-cfg" and scale is not None and -math.inf < scale < 0:
        return 1.0, scale
    raise BadValue(f"a form of SiD is lsg, zero-cfg (without a scale) or anti-cfg (a negative one), got {form!r}, {scale}")
