"""Probabilistic guidance, for networks that predict a Gaussian mixture of the clean sample instead of its mean."""

from dataclasses import dataclass

import torch

from ..errors import BadValue
from .vectors import project


@dataclass(frozen=True)
class GaussianMixture:
    """At every position, a mixture of K isotropic Gaussians over the channels of the clean sample.

    means: [batch, K, channels, ...], in x0 units. log_weights: [batch, K, 1, ...], any constant per position may be
    added. variance: above 0, shared by all components and positions of a sample, [batch or 1, 1, 1, ...].
    Raises `BadValue` for other shapes. Arithmetic runs in the tensors' own dtype: give fp32 or fp64.
    """

    means: torch.Tensor
    log_weights: torch.Tensor
    variance: torch.Tensor

    def __post_init__(self) -> None:
        if self.means.ndim < 3:
            raise BadValue(f"means must be [batch, K, channels, ...], got shape {tuple(self.means.shape)}")
        batch, count, _, *positions = self.means.shape
        if self.log_weights.shape != (batch, count, 1, *positions):
            raise BadValue(f"log_weights must have the shape of means with one channel, {(batch, count, 1, *positions)}, "
                           f"got {tuple(self.log_weights.shape)}")
        single = (1,) * (self.means.ndim - 1)
        if self.variance.shape not in ((batch, *single), (1, *single)):
            raise BadValue(f"variance must hold one number per sample, {(batch, *single)}, "
                           f"got {tuple(self.variance.shape)}")

    @property
    def weights(self) -> torch.Tensor:
        """Shares of the components, [batch, K, 1, ...], summing to 1 over K."""
        return self.log_weights.softmax(1)

    def mean(self) -> torch.Tensor:
        """Mean of the mixture, [batch, channels, ...]."""
        return (self.weights * self.means).sum(1)

    def total_variance(self) -> torch.Tensor:
        """Variance of the mixture averaged over channels and positions, [batch, 1, ...] like `mean()`."""
    # law of total variance: the spread of the means and what each component has of its own
        spread = (self.weights * (self.means - self.mean().unsqueeze(1)).square()).sum(1)
        return _average(spread) + self.variance[:, 0]


def probabilistic_guidance(cond: GaussianMixture, uncond: GaussianMixture, scale: float, orthogonal: float = 1.0,
                           floor: float = 1e-6) -> GaussianMixture:
    """Guide a mixture by reweighting it as a whole: GMFlow, arXiv 2504.05304, first order.

    With w = scale - 1, means mu and total variance s^2 of `cond`, and b = mu - mu_uncond less its part along mu:
    b <- b w s / rms(b), and the result is proportional to cond(x0) N(x0; mu + b, (1 - w^2) s^2) / N(x0; mu, s^2),
    again a mixture of K Gaussians. The step b takes its energy from the variance: mean(b^2) = w^2 s^2.

    scale: 1 (off, `cond` itself) up to, not including, 2; the paper's w is scale - 1, so its 0.45 is 1.45 here.
    orthogonal: share of b's part along mu that is removed, 0 to 1 (paper).
    floor: least mean(b^2) to divide by, in squared x0 units: a b that is only rounding is not blown up.
    The second-order form, which also uses the mixture of the step before, is left out.
    Raises `BadValue` for values outside these ranges.
    """
    if not 1 <= scale < 2:
        raise BadValue(f"scale must lie in [1, 2) (1 is off), got {scale}. The paper's value, in [0, 1), is scale - 1.")
    if not 0 <= orthogonal <= 1:
        raise BadValue(f"orthogonal must lie in [0, 1], got {orthogonal}")
    if not 0 < floor < float("inf"):
        raise BadValue(f"floor must be above 0 and finite, got {floor}")
    if scale == 1:
        return cond
    share, centre, total = scale - 1, cond.mean(), cond.total_variance()
    bias = _bias(centre, uncond.mean(), orthogonal)
    bias = bias * (total / _average(bias.square()).clamp(min=floor)).sqrt() * share
    return _reweighted(cond, centre, bias, total, share)


def _bias(cond: torch.Tensor, uncond: torch.Tensor, orthogonal: float) -> torch.Tensor:
    if cond.shape != uncond.shape:
        raise BadValue(f"cond and uncond must describe samples of one shape, "
                       f"got {tuple(cond.shape)} and {tuple(uncond.shape)}")
    parallel, _ = project(cond - uncond, cond)
    return cond - uncond - orthogonal * parallel


def _reweighted(gm: GaussianMixture, centre: torch.Tensor, bias: torch.Tensor, total: torch.Tensor,
                share: float) -> GaussianMixture:
    """`gm` times N(centre + bias, (1 - share^2) total) / N(centre, total), normalised."""
    # In y = x0 - centre the ratio is exp(pull . y - sharper |y|^2 / 2), up to a constant.
    # Gaussian times Gaussian: precisions add, so each component's variance shrinks by 1 + variance * sharper, and its mean
    # moves by what pulls it; `gained` is the log of the constant that is left over, by which its weight changes
    narrowed = (1 - share**2) * total
    pull, sharper = (bias / narrowed).unsqueeze(1), (share**2 / narrowed).unsqueeze(1)
    offset, shrink = gm.means - centre.unsqueeze(1), 1 + gm.variance * sharper
    means = gm.means + gm.variance * (pull - sharper * offset) / shrink
    gained = (offset * pull - sharper * offset.square() / 2).sum(2, keepdim=True) / shrink
    return GaussianMixture(means, (gm.log_weights + gained).log_softmax(1), gm.variance / shrink)


def _average(values: torch.Tensor) -> torch.Tensor:
    """Mean per sample, kept in the shape [batch, 1, ...]."""
    return values.mean(tuple(range(1, values.ndim)), keepdim=True)
