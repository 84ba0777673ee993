"""The levels a sampler goes through."""

import math
from dataclasses import dataclass

from ..errors import BadValue, Unsupported
from ..maths.predictions import Space


@dataclass(frozen=True)
class Path:
    """The N + 1 levels of a run of N steps, noisiest first, with x = alpha x0 + sigma epsilon at each.

    alphas, sigmas: at least 0 and finite; the noise level k = sigma / alpha falls strictly, and may be infinite (alpha 0) at
    the first level only. The sampler ends at the last level, usually alpha 1, sigma 0. Raises `BadValue` otherwise.
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.alphas) != len(self.sigmas) or len(self.sigmas) < 2:
            raise BadValue("a path needs an alpha and a sigma for each of at least 2 levels, "
                           f"got {len(self.alphas)} and {len(self.sigmas)}")
        if not all(0 <= a < math.inf and 0 <= s < math.inf and a + s > 0 for a, s in zip(self.alphas, self.sigmas)):
            raise BadValue("the alphas and sigmas of a path must be finite, at least 0, and never both 0")
        if not all(above > below for above, below in zip(self.ratios, self.ratios[1:])):
            raise BadValue("the noise level sigma / alpha must fall at every step; order the levels noisiest first")

    @classmethod
    def flow(cls, sigmas: tuple[float, ...]) -> "Path":
        """Straight path, alpha = 1 - sigma. sigmas: in [0, 1], falling."""
        return cls(tuple(1 - sigma for sigma in sigmas), tuple(sigmas))

    @classmethod
    def variance_preserving(cls, sigmas: tuple[float, ...]) -> "Path":
        """alpha^2 + sigma^2 = 1. sigmas: in [0, 1], falling (from a noise level k: sigma = k / sqrt(1 + k^2))."""
        if not all(0 <= sigma <= 1 for sigma in sigmas):
            raise BadValue("the sigmas of a variance preserving path lie in [0, 1]; use Path.edm for noise levels above 1")
        return cls(tuple(math.sqrt(1 - sigma**2) for sigma in sigmas), tuple(sigmas))

    @classmethod
    def edm(cls, sigmas: tuple[float, ...]) -> "Path":
        """Variance exploding path, alpha = 1. sigmas: the noise levels, falling."""
        return cls((1.0,) * len(sigmas), tuple(sigmas))

    def __len__(self) -> int:
        """Number of steps, N."""
        return len(self.sigmas) - 1

    @property
    def ratios(self) -> tuple[float, ...]:
        """The noise levels k = sigma / alpha, infinite where alpha is 0."""
        return tuple(sigma / alpha if alpha else math.inf for alpha, sigma in zip(self.alphas, self.sigmas))

    def at(self, i: int) -> tuple[float, float]:
        """(alpha, sigma) of level i."""
        return self.alphas[i], self.sigmas[i]

    def shrink(self, i: int, j: int) -> float:
        """k_j / k_i for levels i < j: the share of the noise of level i that is left at level j, in [0, 1)."""
        return self.sigmas[j] * self.alphas[i] / (self.sigmas[i] * self.alphas[j])

    def below(self, i: int, share: float) -> tuple[float, float]:
        """(alpha, sigma) where the noise level is `share` of that of level i, on a path of the same kind.

        Raises `Unsupported` for a path that is of no known kind.
        """
        k = share * self.ratios[i]
        if self.fits("flow"):
            return 1 / (1 + k), k / (1 + k)
        if self.fits("v"):
            return 1 / math.hypot(1, k), k / math.hypot(1, k)
        if set(self.alphas) == {1.0}:
            return 1.0, k
        raise Unsupported("a level between two of the path is known for flow, variance preserving and EDM paths alone")

    def fits(self, space: Space) -> bool:
        """True where `space` makes sense on this path: flow needs alpha + sigma = 1, v alpha^2 + sigma^2 = 1."""
        power = {"flow": 1, "v": 2}.get(space)
        return power is None or all(abs(a**power + s**power - 1) < 1e-3 for a, s in zip(self.alphas, self.sigmas))
