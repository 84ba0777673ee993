"""Objectives with a variable or a measure of their own: a learned negative, a learned first noise, features, embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import BadValue
from ..maths.predictions import Space, convert, to_x0
from ..maths.vectors import extrapolate, widened
from .rows import fixed, row_errors


def reneg_loss(negative: torch.Tensor, cond: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, scale: float,
               reward: Callable[[torch.Tensor], torch.Tensor], space: Space = "epsilon") -> torch.Tensor:
    r"""ReNeg, arXiv 2412.19637: a negative embedding n is learned, $-R(x_0(e(n) + w (e(c) - e(n))))$, at one late step.

    negative: e(n) [batch, ...], the one tensor that gradients reach. cond: e(c). x: x_t of a guided run without
    gradients, at a random one of its last steps. reward: of x0 [batch, ...], one number a row, larger is better. scale:
    w. The embedding is then given to a pipeline as its negative prompt, at no cost. Raises `BadValue` at scale 1, where
    there is nothing to learn.
    """
    if scale == 1:
        raise BadValue("at scale 1 the negative plays no part: give the scale it will be used at, e.g. 7.5")
    guided = extrapolate(widened(negative), fixed(cond), scale)
    return -reward(to_x0(guided, fixed(x), alpha, sigma, space)).mean()


def noise_loss(noise: torch.Tensor, steps: Sequence[tuple[float, float]],
               denoise: Callable[[torch.Tensor, int], torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    r"""NoiseRefine, arXiv 2412.03895: $\lVert F_1 \dots F_T(x_T + g) - x_0 \rVert^2$, $F_t = a_t x + b_t\,\mathrm{sg}[e]$.

    noise: x_T + g(x_T, c) [batch, ...], refined. steps: (a, b) of a first-order sampler without guidance, in order.
    denoise: the network's prediction at x and the number of the step, asked without gradients. target: x0 of the guided
    run from x_T. The gradient is 2 prod(a) times the distance: nothing goes back through the network.
    """
    x = widened(noise)
    for number, (a, b) in enumerate(steps):
        with torch.no_grad():
            predicted = denoise(x, number)
        x = a * x + b * fixed(predicted)
    return row_errors(x, target).mean()


def self_perceptual_loss(student: torch.Tensor, x: torch.Tensor, x0: torch.Tensor, noise: torch.Tensor,
                         now: tuple[float, float], then: tuple[float, float],
                         features: Callable[[torch.Tensor], torch.Tensor], space: Space = "v") -> torch.Tensor:
    r"""Self-perceptual loss, arXiv 2401.00110: $\lVert f^*(\hat x_{t'}) - f^*(x_{t'}) \rVert^2$, a frozen copy's features.

    student: its prediction at x = x_t. x0, noise: what x was made of. now, then: (alpha, sigma) of t and of another,
    random t'. features: the hidden state of the frozen network at its middle block, for an input at t'; which block of a
    transformer is unknown, the middle one is an untested default. A module whose parameters would be trained is refused
    (`BadValue`).
    """
    if isinstance(features, torch.nn.Module) and any(p.requires_grad for p in features.parameters()):
        raise BadValue("the network that gives the features must be frozen: features.requires_grad_(False)")
    (alpha, sigma), (alpha_then, sigma_then) = now, then
    implied = to_x0(widened(student), x, alpha, sigma, space)
    again = alpha_then * implied + sigma_then * convert(widened(student), x, alpha, sigma, space, "epsilon")
    with torch.no_grad():
        wanted = features(alpha_then * x0 + sigma_then * noise)
    return row_errors(features(again), wanted).mean()


def fused_embedding(time: torch.Tensor, pooled: torch.Tensor, scale: torch.Tensor, difference: torch.Tensor,
                    divisor: float = 256.0) -> torch.Tensor:
    r"""TeEFusion, arXiv 2507.18192: the scale in embeddings, $G(\psi(t)) + F(c) + G(\psi(1000 s)) F(c - c_0) / 256$.

    time, pooled: what the network adds up already, [batch, dim]. scale: its embedding of time, asked at 1000 s instead, s =
    w - 1. difference: its embedding of the pooled text, of the condition's less the empty one's. The student is trained with
    `distillation_loss`; the authors' training loop is not public.
    """
    return time + pooled + scale * difference / divisor


def distilled_base_advice(config: Any, trained_at: float | None) -> str | None:
    """URAE's rule for networks that are guidance-distilled, arXiv 2503.16322: what is wrong with a training, or None.

    config: the network's configuration. trained_at: what its guidance input is told in training; None where it is told
    nothing. Data is not guided, so such a network is told 1 in training, and its usual scale (3.5) afterwards.
    """
    if not getattr(config, "guidance_embeds", False):
        unused = trained_at not in (None, 1)
        return "this network has no input for a scale: the one told in training does nothing" if unused else None
    if trained_at == 1:
        return None
    told = "nothing" if trained_at is None else f"{trained_at:g}"
    return (f"this network is guidance-distilled, and its guidance input is told {told} in training: tell it 1 (its data is "
            "not guided), and its usual scale afterwards; or what is learned is guided once more")
