"""Weighted particles: what the Feynman-Kac correctors share."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BadValue, Unsupported
from .base import Corrector, GuidedModel, Solver
from .conditioned import groups_of
from .particles import effective_size, resample
from .path import Path
from .reverse_sde import Powers, ReverseSDE, pick, reverse_kernel, surplus
from .solvers import to_epsilon

log = logging.getLogger("emag")


@dataclass(frozen=True, kw_only=True)
class Weighted(Corrector):
    """Base of the Feynman-Kac correctors: weighs the particles of a reverse SDE, and resamples them.

    The target is prod q_b^b (arXiv 2503.02819). Samples of one condition are particles of one distribution and are
    resampled together: here, alone, a sample depends on others, those of its own condition. The solver is
    `ReverseSDE`, which steps along the target's own score, whatever the model's CFG scale is. Other rules than CFG
    and those on conditions are refused: the weights do not know of a further push, and what a rule keeps of a sample
    would not follow the particles. Name it as the last corrector.

    In z = x / alpha, where the drift has no divergence: da = (g^2 / 2) (|sum b s_b|^2 - sum b |s_b|^2) dt; over a
    whole step see `Kernel.change`. Systematic resampling; a last time before the last step that adds noise, so that
    what the weights say is in the images, and no two of them are the same. The state keeps "log_weights" [batch],
    those of the samples as they are, and "ess", the effective sample size of each group [groups] after each step,
    before resampling.

    The authors' image code has centre, clamp and floor; they are off by default, as the last two bias the result.

    Args:
        particles: particles per group of consecutive samples, which must share their condition, at least 1; None
            takes all samples of a condition.
        threshold: resample groups whose effective sample size is at most this share of it, in [0, 1]; 0.5 is
            customary, 1 resamples at every step (as the authors do, which leaves near copies of few), 0 never, and
            the weights are kept.
        spread: that of `ReverseSDE`, a variance of at least 0, 1 for data of unit variance; less leaves less grain, and
            weighs harder.
        centre: subtract the group's mean from da.
        clamp: clamp da to [-clamp, clamp], above 0 (1 in the authors' code); None does not.
        floor: least weight, in [0, 1); 1e-6 in the authors' code, 0 is none.
    """

    particles: int | None = None
    threshold: float = 0.5
    spread: float = 1.0
    centre: bool = False
    clamp: float | None = None
    floor: float = 0.0

    paper = "arXiv 2503.02819"
    cost = "none; several particles per image"
    joint = True

    def __post_init__(self) -> None:
        if self.particles is not None and not self.particles >= 1:
            raise BadValue(f"{self.name} particles must be at least 1 or None (all of a condition), got {self.particles}")
        if not 0 <= self.threshold <= 1:
            raise BadValue(f"{self.name} threshold must lie in [0, 1] (1 resamples always), got {self.threshold}")
        if self.clamp is not None and not 0 < self.clamp < float("inf"):
            raise BadValue(f"{self.name} clamp must be above 0 or None (no clamp), got {self.clamp}")
        if not 0 <= self.floor < 1:
            raise BadValue(f"{self.name} floor must lie in [0, 1), got {self.floor}")
        _ = self.solver  # its own values

    @property
    def powers(self) -> Powers:
        """Exponents b of the target, by branch."""
        raise NotImplementedError

    @property
    def solver(self) -> ReverseSDE:
        """The SDE that the weights belong to."""
        return ReverseSDE(self.powers, self.spread)

    @property
    def conditions(self) -> tuple[str, ...]:
        return self.solver.conditions

    def drive(self, solver: Solver) -> Solver:
        if not isinstance(solver, ReverseSDE):
            adds = "adds other noise" if solver.stochastic else "adds none"
            raise Unsupported(f"{self.name} needs a solver that adds noise of its own kind, and {solver.name} {adds}; use "
                              "ReverseSDE")
        found = replace(solver, powers=solver.powers or self.powers,
                        spread=self.spread if solver.spread is None else solver.spread)
        if found != self.solver:
            raise Unsupported(f"{self.name} weighs the steps of {self.solver}, not of {solver}: leave its powers out, and "
                              "give both one spread")
        return found

    def check(self, model: GuidedModel) -> None:
        for rule in getattr(model, "rules", ()):
            if rule.name == "cfg" and getattr(rule, "channels", None) is None:
                self._check_scale(rule.scale)
            elif rule.kind != "condition":
                raise Unsupported(f"{self.name} weighs steps along the scores of its conditions alone: {rule.name} moves "
                                  "the prediction, or keeps something of each sample that does not follow the particles; "
                                  "leave it out")

    def _check_scale(self, scale: Any) -> None:
        """Say that CFG's scale plays no part, where it is another."""
        if scale != getattr(self, "scale", None):
            log.warning("emag: %s steps along %s; cfg's scale of %s is not used", self.name,
                        " ".join(f"{b:+g} {name}" for name, b in self.powers), scale)

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if i == 0:
            state["groups"] = self._groups(len(x), model)
            # the noise to start from: prod q_b^b is N(0, sigma^2 / sum b) where all q are N(0, sigma^2)
            x = x / (surplus([b for _, b in self.powers]) + 1) ** 0.5
        state["x"] = x
        return x

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        change = self._change(state["x"], i, model) + self._rise(x, i, model, state)
        weights = state.get("log_weights", torch.zeros_like(change)).clone()
        uniform = torch.special.ndtr(model.noise(f"{self.name}/{i}", x.flatten(1)[:, :1]).to(change))[:, 0]
        rows, sizes, least = torch.arange(len(x), device=x.device), [], self._least(i, model.path)
        for group in state["groups"]:
            group = group.to(x.device)
            weights[group] += self._tamed(change[group])
            size = effective_size(weights[group])
            keep = size > least * len(group)
            chosen = group[resample(weights[group], uniform[group[0]], self.floor)]
            rows[group] = torch.where(keep, group, chosen)
            weights[group] = torch.where(keep, weights[group], 0.0)
            sizes.append(size)
        state["log_weights"], state["rows"] = weights, rows
        state["ess"] = [*state.get("ess", []), torch.stack(sizes)]
        return x[rows]

    def _least(self, i: int, path: Path) -> float:
        """Share of its size that a group may be worth after step i without being resampled.

        Copies must part again, so never after the last step that adds noise has begun; and always before it, so that images
        need no weights.
        """
        noisy = [after < len(path.sigmas) and path.sigmas[after] > 0 for after in (i + 2, i + 3)]
        if not noisy[0] or self.threshold == 0:
            return 0.0
        return self.threshold if noisy[1] else 1.0

    def _change(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """The change da of the log-weights over the step from x at level i, [batch], float64."""
        noises = [to_epsilon(p, x, *model.path.at(i), model.space) for p in pick(model.latest, self.powers)]
        powers = [b for _, b in self.powers]
        return reverse_kernel(model.path, i, surplus(powers) + 1, self.spread, end=False).change(noises, powers)

    def _rise(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor | float:
        """What the log-weights change by beside, [batch], over the step from level i that has reached x."""
        return 0.0

    def _tamed(self, change: torch.Tensor) -> torch.Tensor:
        """The `change` of one group, centred and clamped where asked."""
        change = change - change.mean() if self.centre else change
        return change if self.clamp is None else change.clamp(-self.clamp, self.clamp)

    def _groups(self, count: int, model: GuidedModel) -> list[torch.Tensor]:
        """Row numbers of each group. Raises `BadValue` where a group would hold several conditions."""
        same = groups_of(model, count)
        if self.particles is not None:
            parts = torch.arange(count).split(self.particles)
            if len(parts[-1]) != self.particles:
                raise BadValue(f"{self.name} cannot part a batch of {count} into groups of {self.particles} particles")
            if any(len({same[row] for row in part.tolist()}) > 1 for part in parts):
                raise BadValue(f"{self.name} would resample images of several conditions together: {self.particles} "
                               "consecutive ones do not share theirs; leave particles out for one group per condition")
            return list(parts)
        groups = [torch.tensor([row for row in range(count) if same[row] == label]) for label in dict.fromkeys(same)]
        if self.threshold and any(len(group) == 1 for group in groups):
            log.warning("emag: %s has a single image of some condition, which it cannot weigh against another: its image is "
                        "that of reverse-sde alone; give several seeds", self.name)
        return groups
