"""One step made by energy guidance: the gradients that are taken in it, and in which order."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...core import Branches, Step
from ...maths.energies import noised_back
from .made import EnergyOf, Made, Where, placed, stochastic
from .slopes import Slopes


class Steering(Protocol):
    """What an `Energy` says of a step: fields of its names; pulls: moves by the gradient in x_t; climbs: x0 is moved by that
    at itself."""

    @property
    def of(self) -> EnergyOf: ...
    @property
    def where(self) -> Where: ...
    @property
    def strength(self) -> float: ...
    @property
    def mean(self) -> float: ...
    @property
    def through_network(self) -> bool: ...
    @property
    def inner(self) -> int: ...
    @property
    def recur(self) -> int: ...
    @property
    def again(self) -> bool: ...
    @property
    def eta(self) -> float: ...
    @property
    def lam(self) -> float | None: ...
    @property
    def pulls(self) -> int: ...
    @property
    def climbs(self) -> bool: ...


@dataclass(frozen=True)
class Making:
    """The making of one step. share: what the strengths are multiplied by in it."""

    rule: Steering
    slopes: Slopes
    share: float

    def made(self, pred: torch.Tensor, branches: Branches, step: Step) -> Made:
        """The step as it is to be made, `recur` times. pred: the guided x0 [batch, ...]."""
        base = pred if self.rule.of == "guided" else branches.get(self.rule.of)
        made = self.turn(step.x, pred, base)
        for turn in range(1, self.rule.recur):
            noise = step.streams.normal(f"energy/turn/{turn}", step.x).to(step.x)
            x = noised_back(made.reached(step), noise, (step.alpha, step.sigma), step.next)
            made = replace(self, slopes=replace(self.slopes, turn=turn)).turn(x, None, None)
        return made

    def turn(self, x: torch.Tensor, pred: torch.Tensor | None, base: torch.Tensor | None) -> Made:
        """One making from x. pred, base: x0 there, guided and the one that is scored; None where not known."""
        rule, slopes, pull = self.rule, self.slopes, None
        for _ in range(rule.pulls):
            slope, there = (slopes.noisy(x), None) if rule.of == "noisy" else slopes.through(x, rule.of)
            pull = self.share * rule.strength * slope
            pred = there if pred is None and rule.of == "guided" else pred
            if rule.again:
                x, pred, base = x + pull, None, None
        estimate = slopes.access.estimate
        pred = estimate(x, "guided") if pred is None else pred
        if rule.climbs and base is None and rule.of != "noisy":
            base = pred if rule.of == "guided" else estimate(x, rule.of)
        made = stochastic(Made(x, pred), rule.eta, slopes.step, slopes.turn)
        return placed(rule.where, made, None if rule.again else pull, self._climbed(base), slopes.step, rule.lam)

    def _climbed(self, base: torch.Tensor | None) -> torch.Tensor | None:
        """By how much x0 moves in `inner` steps up the score, from where it is; None where none are made."""
        rule = self.rule
        if base is None or not rule.climbs:
            return None
        strength = self.share * (rule.mean if rule.through_network else rule.strength)
        at = base
        for _ in range(rule.inner):
            at = at + strength * self.slopes.at(at)
        return at - base
