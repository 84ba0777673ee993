r"""The four prediction spaces and the maps between them.

With $x = \alpha x_0 + \sigma \epsilon$: a network returns `epsilon`, `v` $= \alpha\epsilon - \sigma x_0$, `flow`
$= \epsilon - x_0$ (where $\alpha = 1 - \sigma$) or `x0`. At one $x$ all four are affine in each other, so a *difference*
of two predictions changes space by a scalar: that is all a rule needs.
"""

from typing import Literal, get_args

import torch

from ..errors import BadValue

DenoiserSpace = Literal["epsilon", "v", "flow", "x0"]
TokenSpace = Literal["logp", "logits", "hidden", "prob"]
"""What a token model predicts: log-probabilities, logits as they are, states before its heads, or probabilities.
There is no x, so nothing converts them."""
Space = Literal[DenoiserSpace, TokenSpace]
SPACES: tuple[DenoiserSpace, ...] = get_args(DenoiserSpace)


def to_x0(p: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: Space) -> torch.Tensor:
    """Clean sample implied by prediction `p` at `x`; same shape. Raises `BadValue` where alpha is 0."""
    if space == "x0":
        return p
    if space == "flow":
        return x - sigma * p
    if space == "v":
        return alpha * x - sigma * p
    # epsilon: x = alpha x0 + sigma p
    return (x - sigma * p) / _nonzero(alpha, space)


def from_x0(x0: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: Space) -> torch.Tensor:
    """Inverse of `to_x0`, same shape. Raises `BadValue` where sigma is 0 (the prediction is then undefined)."""
    if space == "x0":
        return x0
    sigma = _nonzero(sigma, space)
    if space == "flow":
        return (x - x0) / sigma
    return (alpha * x - x0) / sigma if space == "v" else (x - alpha * x0) / sigma


def convert(p: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, source: Space, target: Space) -> torch.Tensor:
    """Prediction `p` at `x`, from space `source` to space `target`; all [batch, ...]."""
    if source == target:
        return p
    _check_denoiser(source, target)
    return from_x0(to_x0(p, x, alpha, sigma, source), x, alpha, sigma, target)


def difference_scale(alpha: float, sigma: float, source: Space, target: Space) -> float:
    """Scalar k with D_target = k D_source. Raises `BadValue` where D_source is always 0: epsilon at alpha 0, x0 at sigma 0.

    With D = D_flow (or D_v): D_x0 = -sigma D and D_epsilon = alpha D.
    """
    if source == target:
        return 1.0
    _check_denoiser(source, target)
    # x0 = alpha x - sigma v and epsilon = sigma x + alpha v, so dx0 = -sigma dv and depsilon = alpha dv; flow likewise
    unit = {"x0": -sigma, "epsilon": alpha, "v": 1.0, "flow": 1.0}
    return unit[target] / _nonzero(unit[source], source)


def _check_denoiser(*spaces: Space) -> None:
    if not set(spaces) <= set(SPACES):
        raise BadValue(f"{spaces[0]} cannot be converted to {spaces[1]}: only predictions of a denoiser have an x to go by")


def _nonzero(value: float, space: Space) -> float:
    if value == 0:
        raise BadValue(f"a {space} prediction cannot be converted here: alpha or sigma is 0 at this step. "
                       "Use a schedule without that end point, or a rule that needs no conversion.")
    return value
