"""Objectives whose target is a guided prediction: a student that makes in one evaluation what guidance makes in several.

Predictions are [batch, ...], all in one space (epsilon, v, flow); scales are w of u + w (c - u), and 1 is off.
"""

import math
from typing import Literal

import torch

from ..errors import BadValue
from ..maths.vectors import extrapolate, per_sample
from .rows import fixed, row_errors, undropped


def distillation_loss(student: torch.Tensor, guided: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    r"""Adapter guidance distillation (AGD), arXiv 2503.07274: $\lVert f(x_t, c) - \mathrm{sg}[g(x_t, c)] \rVert^2$.

    guided: what a guidance of any kind made of its branches at the same x_t, by the frozen network. A guidance with a memory
    (EMAG, APG with momentum, CADS) has one along a trajectory only: take x_t from guided runs, in their order, as the paper
    does for CFG. weight: of each row, [batch]. The optimum is the guided prediction itself. Raises `BadValue`.
    """
    errors = row_errors(student, guided)
    return (errors if weight is None else weight * errors).mean()


def guidance_loss(student: torch.Tensor, data: torch.Tensor, null: torch.Tensor, scale: float,
                  dropped: torch.Tensor | None = None) -> torch.Tensor:
    r"""Guidance loss of trainers of LoRAs: $\lVert f(x_t, c) - \mathrm{sg}[u + s (v - u)] \rVert^2$; no paper was found.

    data: v, the plain target (the noise, or the velocity, of the batch). null: u at the same x_t: of the frozen base, of
    an averaged copy, or the student's own without gradients; all three have the optimum $u + s (E[v] - u)$ as long as
    rows of dropped conditions keep u where it is. On a network whose guidance is baked in without an input, it is the
    target that leaves it there; on an ordinary one it bakes s in. scale: s, at least 0; 1 is the plain loss, exactly.
    Where data comes of a model that is guided by k already, the scales multiply: s k. dropped: [batch] bool, rows that
    take the plain target. Raises `BadValue`.
    """
    _check_knob("scale", scale)
    target = extrapolate(fixed(null), fixed(data), scale)
    return row_errors(student, undropped(target, fixed(data), dropped)).mean()


Coefficient = Literal["printed", "tabulated"]
"""Model-Guidance's w: the coefficient as in its formula, or w - 1, by which its table calls 1 the ordinary model."""


def model_guidance_loss(student: torch.Tensor, data: torch.Tensor, cond: torch.Tensor, null: torch.Tensor, scale: float,
                        dropped: torch.Tensor | None = None, convention: Coefficient = "printed") -> torch.Tensor:
    r"""Model-Guidance (MG), arXiv 2502.12154: $\lVert f(x, c) - v - w\,\mathrm{sg}[f'(x, c) - f'(x)] \rVert^2$.

    cond, null: of an averaged copy of the student (or of itself), asked without gradients. scale: w. The student meets
    its own answer in the target, so its fixed point is $u + (E[v] - u) / (1 - w)$: there is none from w = 1 on.
    convention: the paper prints w and tabulates 1 as no guidance, which cannot both be so; "tabulated" takes w - 1, with
    the fixed point at 1 / (2 - w). dropped as in `guidance_loss`. Raises `BadValue`.
    """
    coefficient = mg_coefficient(scale, convention)
    target = fixed(data) + coefficient * (fixed(cond) - fixed(null))
    return row_errors(student, undropped(target, fixed(data), dropped)).mean()


def mg_coefficient(scale: float, convention: Coefficient = "printed") -> float:
    """What Model-Guidance multiplies its own difference by. Raises `BadValue` where training would have no fixed point."""
    if convention not in ("printed", "tabulated"):
        raise BadValue(f"convention must be 'printed' or 'tabulated', got {convention!r}")
    coefficient = scale if convention == "printed" else scale - 1
    if not -math.inf < coefficient < 1:
        raise BadValue(f"Model-Guidance has no fixed point at scale {scale:g} ({convention}): the guidance it bakes in "
                       f"grows without end from {1 if convention == 'printed' else 2} on")
    return coefficient


def guided_velocity(data: torch.Tensor, cond: torch.Tensor, null: torch.Tensor, omega: float, kappa: float,
                    dropped: torch.Tensor | None = None) -> torch.Tensor:
    r"""MeanFlow's guided velocity as in MeanAudio, arXiv 2508.06098: $\omega v + \kappa u_c + (1 - \omega - \kappa) u_0$.

    cond, null: of the student itself at r = t, without gradients. The fixed point is guided by $\omega / (1 - \kappa)$. The
    condition tensors of cond must not be those that rows were dropped from in place: cond would then be null in those rows.
    dropped: rows that take the plain velocity. Returns [batch, ...], no gradient. Raises `BadValue`.
    """
    if not -math.inf < kappa < 1:
        raise BadValue(f"kappa must be below 1, where the guidance that is baked in grows without end, got {kappa}")
    mixed = omega * fixed(data) + kappa * fixed(cond) + (1 - omega - kappa) * fixed(null)
    return undropped(mixed, fixed(data), dropped)


def meanflow_loss(student: torch.Tensor, velocity: torch.Tensor, derivative: torch.Tensor, t: torch.Tensor, r: torch.Tensor,
                  power: float = 1.0, floor: float = 1e-3) -> torch.Tensor:
    r"""MeanFlow, as in arXiv 2508.06098: $\lVert u(x_t, r, t) - \mathrm{sg}[\hat v - (t - r)\,du/dt] \rVert^2$, weighted.

    velocity: v-hat, e.g. `guided_velocity`. derivative: du/dt along (v-hat, 0, 1), from `torch.func.jvp`. t, r: [batch],
    with r <= t. Each row is divided by (error + floor)^power without gradient, as MeanAudio does; power 0 leaves it
    plain. Raises `BadValue`.
    """
    errors = row_errors(student, fixed(velocity) - per_sample(t - r, velocity) * fixed(derivative))
    return (errors / (errors.detach() + floor) ** power).mean()


def _check_knob(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise BadValue(f"{name} must be a number of at least 0 (1 is off), got {value!r}")
