"""Feynman-Kac correctors: weights and resampling that make guided samples follow the distribution they claim to."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND
from ..errors import BadValue
from .base import Corrector, Model
from .particles import effective_size, excess, resample
from .solvers import Powers, ReverseSDE, pick, to_epsilon


@dataclass(frozen=True, kw_only=True)
class Weighted(Corrector):
    """Weights of the particles of a reverse SDE with target prod q_b^b, arXiv 2503.02819, and their resampling.

    Samples of a batch are particles of one distribution and are resampled together: here, alone, a sample depends on its
    batch mates. All particles of a group must share their condition. Run it with `solver=corrector.solver`, as the last
    corrector; multistep solvers and rules with a state per sample do not know which particle went where.

    In z = x / alpha, where the drift has no divergence: da = (g^2 / 2) (|sum b s_b|^2 - sum b |s_b|^2) dt. Over a step
    g^2 dt is k^2 - k'^2, and so da = (1 - (k' / k)^2) / 2 (|sum b e_b|^2 - sum b |e_b|^2), e the noise predictions.
    Systematic resampling after every step but the last. The state keeps "log_weights" [batch], those of the samples as they
    are, and "ess", the effective sample size of each group [groups] after each step, before resampling.

    particles: particles per group of consecutive samples; None takes the whole batch. threshold: resample groups whose
    effective sample size is at most this share of it; 1 resamples always, 0 never, and the weights are kept. centre, clamp,
    floor: the authors' image code subtracts the group's mean from da, clamps it to [-1, 1], and weights from below at 1e-6;
    off by default, as the last two bias the result.
    """

    particles: int | None = None
    threshold: float = 1.0
    centre: bool = False
    clamp: float | None = None
    floor: float = 0.0

    paper = "arXiv 2503.02819"
    cost = "none; several particles per image"
    stochastic = True

    def __post_init__(self) -> None:
        if self.particles is not None and not self.particles >= 1:
            raise BadValue(f"{self.name} particles must be at least 1 or None (the whole batch), got {self.particles}")
        if not 0 <= self.threshold <= 1:
            raise BadValue(f"{self.name} threshold must lie in [0, 1] (1 resamples always), got {self.threshold}")
        if self.clamp is not None and not 0 < self.clamp < float("inf"):
            raise BadValue(f"{self.name} clamp must be above 0 or None (no clamp), got {self.clamp}")
        if not 0 <= self.floor < 1:
            raise BadValue(f"{self.name} floor must lie in [0, 1), got {self.floor}")

    @property
    def powers(self) -> Powers:
        """Exponents b of the target, by branch."""
        raise NotImplementedError

    @property
    def solver(self) -> ReverseSDE:
        """The SDE that the weights belong to."""
        return ReverseSDE(self.powers)

    def before(self, x: torch.Tensor, i: int, model: Model, state: dict[str, Any]) -> torch.Tensor:
        if i == 0:
            # the noise to start from: prod q_b^b is N(0, sigma^2 / sum b) where all q are N(0, sigma^2)
            x = x / sum(b for _, b in self.powers) ** 0.5
        state["x"] = x
        return x

    def after(self, x: torch.Tensor, i: int, model: Model, state: dict[str, Any]) -> torch.Tensor:
        change = self._grouped(self._change(state["x"], i, model))
        log_weights = change + state.get("log_weights", torch.zeros_like(change)).view_as(change)
        size = effective_size(log_weights)
        keep = (size > self.threshold * change.shape[1]) | (i + 1 == len(model.path))
        draw = torch.special.ndtr(model.noise(f"{self.name}/{i}", x.flatten(1)[:, :1]).to(change).view_as(change)[:, 0])
        stay = torch.arange(len(x), device=x.device).view_as(change)
        rows = torch.where(keep[:, None], stay, stay[:, :1] + resample(log_weights, draw, self.floor))
        state["log_weights"] = torch.where(keep[:, None], log_weights, 0.0).flatten()
        state["ess"] = [*state.get("ess", []), size]
        return x[rows.flatten()]

    def _change(self, x: torch.Tensor, i: int, model: Model) -> torch.Tensor:
        """The change da of the log-weights over the step from x at level i, [batch], float64."""
        noises = [to_epsilon(p, x, *model.path.at(i), model.space) for p in pick(model.latest, self.powers)]
        return (1 - model.path.shrink(i, i + 1) ** 2) / 2 * excess(noises, [b for _, b in self.powers])

    def _grouped(self, change: torch.Tensor) -> torch.Tensor:
        """`change` as [groups, particles], centred and clamped where asked."""
        size = self.particles or len(change)
        if len(change) % size:
            raise BadValue(f"{self.name} cannot part a batch of {len(change)} into groups of {size} particles")
        groups = change.view(-1, size)
        groups = groups - groups.mean(1, keepdim=True) if self.centre else groups
        return groups if self.clamp is None else groups.clamp(-self.clamp, self.clamp)


@dataclass(frozen=True)
class FKC(Weighted):
    """Classifier-free guidance that reaches p^(1 - w) p(.|c)^w, arXiv 2503.02819: da = (g^2 / 2) w (w - 1) |s_c - s_u|^2 dt.

    scale: w, at least 0; 1 (conditional) and 0 (unconditional) leave all weights equal. 1.5 is an untested default.
    Further fields: see `Weighted`.
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

    branches: names of at least two branches that the model's call evaluates, such as several conditions or networks.
    Further fields: see `Weighted`.
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
    Further fields: see `Weighted`.
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
