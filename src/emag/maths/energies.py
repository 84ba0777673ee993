r"""The maths of energy guidance: gradients of a score, one per sample, and what they make of a step.

With $x = \alpha x_0 + \sigma \epsilon$ here and $\alpha', \sigma'$ at the level that comes next.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
from torch.utils._pytree import tree_map_only

from ..errors import BadValue, EmagError, Unsupported
from .vectors import capped, divided, norm, per_sample

Normalise = Literal["none", "norm", "rms", "relative", "score", "root"]
"""What a gradient is divided by, per sample: nothing; its norm; its root mean square, and "relative" times that of what it
is taken in; |score|; the root of |score|."""
StrengthShape = Literal["constant", "increase", "decrease", "elucd", "elucd-edm"]
"""How a strength runs over the steps; the mean of the first three over them is 1."""
SINE = 0.3
"""The share of the sine in EluCD's schedules, the authors'."""


@contextmanager
def recording() -> Iterator[None]:
    """Gradients are recorded inside, whatever surrounds it: a host's `no_grad` or `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary(values: Any) -> Any:
    """`values`, their inference tensors copied: autograd refuses to keep those for a backward pass."""
    return tree_map_only(torch.Tensor, lambda t: t.clone() if t.is_inference() else t, values)


def slope(at: torch.Tensor, value: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`value(at)` [batch] and its gradient in `at` [batch, ...]; None where it does not depend on it.

    Each number belongs to one sample, so the gradient of their sum holds every sample's own.
    """
    with recording():
        try:
            return _slope(ordinary(at).detach().clone().requires_grad_(), value)
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise Unsupported("weights or buffers were made under torch.inference_mode, and no gradient passes them: load "
                              "the model outside of it") from error


def _slope(leaf: torch.Tensor, value: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    found = value(leaf)
    if not found.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(found.sum(), leaf, allow_unused=True)
    return None if gradient is None else (found.detach(), gradient.detach())


def tamed(gradient: torch.Tensor, score: torch.Tensor, normalise: Normalise, clip: float, at: torch.Tensor) -> torch.Tensor:
    """`gradient` [batch, ...] divided as `normalise` says, then scaled down to norm `clip` where it is longer (0: never).

    at: what it was taken in. Per sample, so that no image depends on its batch mates. A gradient of 0 stays 0.
    """
    size = score.abs().to(gradient)
    if normalise == "norm":
        gradient = divided(gradient, norm(gradient))
    elif normalise == "rms":
        gradient = divided(gradient, norm(gradient) / gradient[0].numel() ** 0.5)
    elif normalise == "relative":
        gradient = divided(gradient, norm(gradient)) * norm(at)
    elif normalise == "score":
        gradient = divided(gradient, per_sample(size, gradient))
    elif normalise == "root":
        gradient = divided(gradient, per_sample(size.sqrt(), gradient))
    return capped(gradient, clip)


def smoothed_score(scores: torch.Tensor) -> torch.Tensor:
    """log mean exp over draws: log scores [draws, batch] of noisy copies -> [batch] (LGD's Monte Carlo estimate)."""
    return scores[0] if len(scores) == 1 else scores.logsumexp(0) - math.log(len(scores))


def check_scores(values: Any, batch: int, label: str, place: str = "") -> torch.Tensor:
    """`values` as they are, where they are one finite number for each of `batch` images. Raises `BadValue` otherwise.

    label: the score in words; place: where in a run, in words, behind an "at". Waits for the device.
    """
    if not isinstance(values, torch.Tensor) or values.shape != (batch,):
        got = f"a tensor {list(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
        raise BadValue(f"the score {label} gave {got} for {batch} image{'s' * (batch > 1)}: it must give one number for "
                       f"each, a tensor [{batch}]")
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        where, weaker = (f" at {place}", ", and weaken the strength") if place else ("", "")
        raise BadValue(f"the score {label} is not finite for image {bad[0]}{where}: keep its logarithms and roots away "
                       f"from 0{weaker}")
    return values


def label_of(score: Any) -> str:
    """A score in words."""
    return repr(score) if isinstance(score, str) else getattr(score, "__name__", type(score).__name__)


def called(score: Callable[[torch.Tensor], Any], images: torch.Tensor, label: str) -> Any:
    """What `score` gives of `images`. Raises `BadValue` in words where it fails on them, its own error behind it."""
    try:
        values = score(images)
    except (EmagError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        if "nference tensor" in str(error):  # of a network, not of the score: said where gradients are taken
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadValue(f"the score {label} failed on {list(images.shape)} ({reason}): it is called with images [batch, 3, "
                       "height, width] in [0, 1], or with what emag.guided(..., decode=...) makes of x0") from error
    # whole numbers and truth values can be compared; that no gradient comes through them is said elsewhere
    return values.float() if isinstance(values, torch.Tensor) and not values.is_floating_point() else values


def shape_of(kind: StrengthShape, levels: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    """N c_t / sum c over the N steps between `levels`, (alpha, sigma) from the noisiest to the end.

    c_t is a_t = (alpha_t / alpha_(t-1))^2 where it increases, 1 - a_t where it decreases, and 1 where it is constant.
    """
    if kind == "constant":
        return (1.0,) * (len(levels) - 1)
    if kind in ("elucd", "elucd-edm"):
        return elucd_shape(levels) if kind == "elucd" else elucd_edm_shape(len(levels) - 1)
    ratios = [(here[0] / after[0]) ** 2 for here, after in pairwise(levels)]
    found = ratios if kind == "increase" else [1 - ratio for ratio in ratios]
    total = sum(found)
    if not total > 0:
        raise BadValue(f"the schedule {kind!r} has no value on a path whose alpha does not change: use 'constant'")
    return tuple(len(found) * one / total for one in found)


def elucd_shape(levels: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    """EluCD on DDPM: (V_t + 0.3 max V sin(pi t / T)) / alpha', V the variance of q(x' | x, x0), the maximum that so far.

    The authors move the mean of x' by the numerator times the gradient, and a move of x0 moves x' by alpha' of it.
    """
    count, largest, found = len(levels) - 1, 0.0, []
    for i, (here, after) in enumerate(pairwise(levels)):
        variance = posterior_spread(here, after) ** 2
        largest = max(largest, variance)
        found.append((variance + SINE * largest * max(0.0, math.sin(math.pi * (count - i) / count))) / after[0])
    return tuple(found)


def elucd_edm_shape(count: int) -> tuple[float, ...]:
    """EluCD on EDM: (N - i) / N + 0.3 sin(pi i / (N - 1)) at step i, N = count + 1."""
    return tuple((count + 1 - i) / (count + 1) + SINE * math.sin(math.pi * i / count) for i in range(count))


def unit_sized(x: torch.Tensor) -> torch.Tensor:
    """x [batch, ...] scaled down to a root mean square of 1 where it is larger, per sample: what a classifier can read."""
    return x / (norm(x) / x[0].numel() ** 0.5).clamp(min=1)


def reach(here: tuple[float, float], after: tuple[float, float]) -> float:
    """By how much x' of a first-order step moves with x0 while x stays: alpha' - sigma' alpha / sigma.

    x' = alpha' x0 + sigma' epsilon with epsilon = (x - alpha x0) / sigma, so dx' / dx0 is this.
    """
    return after[0] - after[1] * here[0] / here[1]


def first_order_step(x: torch.Tensor, x0: torch.Tensor, here: tuple[float, float],
                     after: tuple[float, float]) -> torch.Tensor:
    """x' [batch, ...] of the first-order deterministic step (DDIM with eta 0, Euler) from x along x0."""
    return reach(here, after) * x0 + after[1] / here[1] * x


def towards(target: torch.Tensor, x: torch.Tensor, here: tuple[float, float], after: tuple[float, float]) -> torch.Tensor:
    """The x0 along which that step takes x to `target`: the inverse of `first_order_step`."""
    return (target - after[1] / here[1] * x) / reach(here, after)


def noised_back(x: torch.Tensor, noise: torch.Tensor, here: tuple[float, float], after: tuple[float, float]) -> torch.Tensor:
    """x' at the level `after` taken back to the level `here`: (alpha / alpha') x' + the noise that is missing.

    Its variance is sigma^2 - (alpha / alpha')^2 sigma'^2, so that the level's own is kept: for alpha^2 + sigma^2 = 1 that is
    1 - a_t, a_t = (alpha / alpha')^2.
    """
    ratio = here[0] / after[0]
    return ratio * x + math.sqrt(max(here[1] ** 2 - (ratio * after[1]) ** 2, 0.0)) * noise


def posterior_spread(here: tuple[float, float], after: tuple[float, float]) -> float:
    """Standard deviation of q(x' | x, x0), the noise of a DDPM step.

    (sigma' / sigma) (sigma^2 - (alpha / alpha')^2 sigma'^2)^(1/2).

    That of `noised_back`, times sigma' / sigma: of the two ways between the levels, one adds what the other takes away.
    """
    missing = here[1] ** 2 - (here[0] / after[0] * after[1]) ** 2
    return after[1] / here[1] * math.sqrt(max(missing, 0.0))
