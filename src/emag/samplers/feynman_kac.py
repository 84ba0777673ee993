"""Feynman-Kac correctors: guided samples that follow the distribution they claim to."""

from dataclasses import dataclass

from ..errors import BadValue
from ..guidance import COND, UNCOND
from .reverse_sde import Powers
from .weighted import Weighted


@dataclass(frozen=True)
class FKC(Weighted):
    """Classifier-free guidance that reaches p^(1 - w) p(.|c)^w, arXiv 2503.02819: da = (g^2 / 2) w (w - 1) |s_c - s_u|^2 dt.

    scale: w, at least 0; 1 (conditional) and 0 (unconditional) leave all weights equal. 1.5 is an untested default.
    threshold: resample a prompt's images where they are worth at most this share of their number; 0.5 is customary, the
    authors' code resamples at every step (1). Further fields: see `emag.samplers.weighted.Weighted`.
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
    """The product of the densities of several branches, arXiv 2503.02819: da = g^2 sum over pairs s_b s_b' dt (VE).

    branches: at least two of "cond", "uncond", and other conditions by name, or written out as "prompt:a text". Further
    fields: see `FKC`.
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
    """The annealed density p^b of one branch, arXiv 2503.02819: da = (g^2 / 2) b (b - 1) |s|^2 dt (VE).

    power: b, an inverse temperature above 0; 1 is off, above 1 sharpens. 2 is an untested default. branch: its name.
    Further fields: see `FKC`.
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
