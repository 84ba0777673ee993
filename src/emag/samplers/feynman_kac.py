"""Feynman-Kac correctors: guided samples that follow the distribution they claim to."""

from dataclasses import dataclass

from ..core import COND, UNCOND
from ..errors import BadValue
from .reverse_sde import Powers
from .weighted import Weighted


@dataclass(frozen=True)
class FKC(Weighted):
    """Feynman-Kac corrected CFG: weighted particles make guided samples follow the density they claim to.

    CFG alone does not sample p^(1 - w) p(.|c)^w. Here the samples of one condition are particles: they are weighed by
    da = (g^2 / 2) w (w - 1) |s_c - s_u|^2 dt, and resampled. See `emag.samplers.weighted.Weighted` for the solver and
    the rules that it goes with.

    Args:
        scale: w, at least 0; 1 (conditional) and 0 (unconditional) leave all weights equal. 1.5 is an untested default.
        threshold: resample a prompt's images where they are worth at most this share of their number; 0.5 is customary, the
            authors' code resamples at every step (1).

    >>> import emag
    >>> emag.FKC(1.5, particles=4).powers  # of the density to reach
    (('uncond', -0.5), ('cond', 1.5))
    """

    scale: float = 1.5

    name = "fkc"
    equation = "da = (g^2/2) w (w - 1) |s_c - s_u|^2 dt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.scale < float("inf"):
            raise BadValue(f"fkc scale must be at least 0 (1 is off), got {self.scale}")

    @property
    def powers(self) -> Powers:
        return tuple((name, b) for name, b in ((UNCOND, 1 - self.scale), (COND, self.scale)) if b)


@dataclass(frozen=True)
class FKCProduct(Weighted):
    """Feynman-Kac corrected product: samples that are likely under several conditions or networks at once.

    It reaches the product of the densities of several branches, with weights da = g^2 sum over pairs s_b s_b' dt
    (VE). See `emag.samplers.weighted.Weighted` for the solver and the rules that it goes with.

    Args:
        branches: at least two of "cond", "uncond", and other conditions by name, or written out as "prompt:a text".

    >>> import emag
    >>> emag.FKCProduct(branches=("cond", "prompt:a cat")).powers
    (('cond', 1.0), ('prompt:a cat', 1.0))
    """

    branches: tuple[str, ...]

    name = "fkc-product"
    equation = "da = g^2 sum_(b < b') s_b s_b' dt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(set(self.branches)) == len(self.branches) >= 2:
            raise BadValue(f"fkc-product branches must be at least two different names, got {self.branches}")

    @property
    def powers(self) -> Powers:
        return tuple((name, 1.0) for name in self.branches)


@dataclass(frozen=True)
class FKCAnneal(Weighted):
    """Feynman-Kac corrected annealing: samples of the density p^b of one branch.

    With weights da = (g^2 / 2) b (b - 1) |s|^2 dt (VE). See `emag.samplers.weighted.Weighted` for the solver and the
    rules that it goes with.

    Args:
        power: b, an inverse temperature above 0; 1 is off, above 1 sharpens. 2 is an untested default.
        branch: name of the branch.

    >>> import emag
    >>> emag.FKCAnneal(2.0).powers
    (('cond', 2.0),)
    """

    power: float = 2.0
    branch: str = COND

    name = "fkc-anneal"
    equation = "da = (g^2/2) b (b - 1) |s|^2 dt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < float("inf"):
            raise BadValue(f"fkc-anneal power must be above 0 (1 is off), got {self.power}")

    @property
    def powers(self) -> Powers:
        return ((self.branch, self.power),)
