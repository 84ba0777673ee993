"""Directions carried on: a weak branch evaluated at some steps only, and extrapolated in between."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ...core import Step
from ...errors import BadValue
from ...maths.predictions import difference_scale
from ...maths.vectors import per_sample

MEMORY = "directions"


@dataclass
class Directions:
    """The last two evaluated directions of each sample in a run of one rule.

    The steps that go without are decided per sample, so that an image never depends on its batch mates.

    Args:
        every: of so many steps one is evaluated, after the first two.
        agree: the others are spared where the last two directions have at least this cosine.
        asked: steps so far.
        open: whether the step asked about may be spared; None once it is over.
        at: when the two were evaluated, in steps so far, [batch] each.
        known: the two directions, [batch, ...] each, as differences of velocities.
    """

    every: int
    agree: float
    asked: int = 0
    open: bool | None = None  # whether the step asked about may be spared; None once it is over
    at: list[torch.Tensor] = field(default_factory=list)  # [batch] each
    known: list[torch.Tensor] = field(default_factory=list)  # [batch, ...] each, as differences of velocities

    def spares(self, step: Step) -> bool:
        """True where no sample needs the evaluation of `step`. Asked once for each step that would have one."""
        if step.fresh:
            self.asked, self.open, self.at, self.known = 0, False, [], []
            return False
        # the first two are made, for a line needs two points; then one in `every`
        self.open = self.asked > 1 and (self.asked - 1) % self.every > 0
        self.asked += 1
        if not self.open or self.agree == -1:
            return self.open
        return len(self.known) == 2 and bool(self._agreed().all())  # a plan knows no directions

    def take(self, made: torch.Tensor | None, step: Step) -> torch.Tensor | None:
        """The direction to use, in the space of the step: `made`, or where a sample goes without, the extrapolated one."""
        opened, self.open = self.open, None
        if opened is None or (step.space == "epsilon" and step.alpha == 0):  # where every difference is 0
            return made
        # kept as differences of velocities, so that the line is the same in every space
        unit = difference_scale(step.alpha, step.sigma, step.space, "v")
        if made is not None and not opened:
            self._learn(made * unit, torch.ones(len(made), dtype=torch.bool, device=made.device))
            return made
        if len(self.known) < 2:
            return made
        drawn, kept = self._drawn(), self._agreed()
        if made is None:
            return drawn / unit
        self._learn(made * unit, ~kept)
        return torch.where(per_sample(kept, made), drawn / unit, made)

    def _drawn(self) -> torch.Tensor:
        """The straight line through the last two directions, at this step."""
        (first, last), (before, after) = self.at, self.known
        ahead = (self.asked - last) / (last - first)
        return after + per_sample(ahead, after) * (after - before)

    def _agreed(self) -> torch.Tensor:
        before, after = (direction.flatten(1) for direction in self.known)
        return torch.cosine_similarity(before, after, dim=1).clamp(-1, 1) >= self.agree

    def _learn(self, direction: torch.Tensor, rows: torch.Tensor) -> None:
        """Take in an evaluated direction, in some `rows` [batch] bool."""
        at = torch.full(rows.shape, float(self.asked), dtype=direction.dtype, device=rows.device)
        if len(self.known) < 2:
            self.at, self.known = [*self.at, at], [*self.known, direction]
            return
        newer = zip((self.at[1], at), (self.known[1], direction), self.at, self.known)
        # each sample has two directions of its own: where one is learned, the older goes
        pairs = [(torch.where(rows, a, b), torch.where(per_sample(rows, d), d, e)) for a, d, b, e in newer]
        self.at, self.known = [at for at, _ in pairs], [direction for _, direction in pairs]


def check_carried(rule: Any) -> None:
    """Raise `BadValue` where `every` or `agree` of a rule make no sense."""
    if type(rule.every) is not int or rule.every < 1:
        raise BadValue(f"{rule.name} every must be a whole number of steps, 1 for all, got {rule.every!r}")
    if not -1 <= rule.agree <= 1:
        raise BadValue(f"{rule.name} agree is a cosine, from -1 (always) to 1, got {rule.agree}")
    if rule.agree > -1 and rule.every == 1:
        raise BadValue(f"{rule.name} agree says which steps may be spared, and every=1 spares none: give every, e.g. 4")


def spares(rule: Any, step: Step, state: dict[str, Any]) -> bool:
    """`Rule.spares_weak` of a rule with `every` and `agree`."""
    if rule.every == 1:
        return False
    held: Directions = state.setdefault(MEMORY, Directions(rule.every, rule.agree))
    return held.spares(step)


def direction(made: torch.Tensor | None, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
    """The direction to use at this step: `made`, the evaluated one, or the extrapolated one; None where there is neither."""
    held: Directions | None = state.get(MEMORY)
    return made if held is None else held.take(made, step)
