"""A rule's strength as a value: a number, or a schedule that gives one at each step."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..errors import BadValue
from .fields import FiniteFields
from .step import Branches, Step


@dataclass(frozen=True)
class Schedule(FiniteFields):
    """Base of all schedules: usable as the `scale` of any rule. Subclasses are frozen dataclasses of plain data.

    A schedule says its value before the step is evaluated (`known`), or after it, from the predictions (`at`).

    Args:
        scale: the strength that the schedule shapes, at least 0; 1 is off. None takes the rule's default.
    """

    scale: float | None = None

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    kind: ClassVar[Literal["schedule"]] = "schedule"
    cost: ClassVar[str] = "none; a step at scale 1 needs no unconditional or weak evaluation"

    @property
    def first_order(self) -> bool:
        """True where it is exact for first-order deterministic samplers (DDIM, Euler) only; others are then refused."""
        return False

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)

    @property
    def strength(self) -> float:
        """`scale`, which a rule has filled in by the time it runs."""
        assert self.scale is not None, f"{self.name} runs with its scale filled in"
        return self.scale

    def check(self) -> None:
        """Raise `BadValue` where it cannot be used: what it reads from files, it reads here for the first time."""

    @property
    def measures(self) -> bool:
        """True where the strength depends on the predictions, so that nobody knows it before they are made."""
        return type(self).at is not Schedule.at

    @property
    def over_tokens(self) -> bool:
        """True where it depends on nothing but how far a run is, and so works over the tokens of a text."""
        return False

    def known(self, step: Step) -> float | None:
        """The strength at `step` where it does not depend on the predictions, else None."""
        return None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        """The strength at `step`: a number, or one per sample [batch]. `branches` are in `step.space`.

        `state` is the schedule's own in this run.
        """
        value = self.known(step)
        assert value is not None, f"{self.name} must say its value in known() or in at()"
        return value


Scale = float | Schedule


def known(scale: Scale | None, step: Step) -> float | None:
    """Strength at `step` where it can be told before the evaluation, else None."""
    return scale.known(step) if isinstance(scale, Schedule) else scale


def weight(scale: Scale | None, branches: Branches, step: Step, state: dict[str, Any],
           like: torch.Tensor | None = None) -> float | torch.Tensor:
    """Strength at `step`: a number, or one per sample, shaped to multiply `like` [batch, ...]. State under "schedule"."""
    assert scale is not None, "a rule runs with its defaults filled in"
    if not isinstance(scale, Schedule):
        return scale
    value = scale.at(branches, step, state.setdefault("schedule", {}))
    if not isinstance(value, torch.Tensor) or like is None:
        return value
    # one strength a sample, broadcast over channels and places
    return value.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def check_scale(name: str, scale: Scale | None, low: float = 0.0, field: str = "scale") -> None:
    """Raise `BadValue` where a strength is no finite number of at least `low`; None and schedules pass."""
    if scale is None or isinstance(scale, Schedule):
        return
    if not isinstance(scale, (int, float)) or not low <= scale < float("inf"):
        raise BadValue(f"{name} {field} must be a number of at least {low:g} (1 is off) or a schedule, got {scale!r}")


def check_timed(name: str, scale: Scale | None, why: str) -> None:
    """Raise `BadValue` for a schedule that measures the predictions; `why` says why there are none to measure."""
    if isinstance(scale, Schedule) and scale.measures:
        raise BadValue(f"{name} {why}, so it cannot have {scale.name}, which measures the predictions: give a number, or a "
                       "schedule of time such as Interval or Curve")


def check_tokens(name: str, scale: Scale | None, timed: bool) -> None:
    """Raise `BadValue` for a strength that a loop over tokens cannot have. timed: it is known how many there will be."""
    if scale is None or (isinstance(scale, Schedule) and scale.scale is None):
        raise BadValue(f"{name} has no default scale for tokens: give one, e.g. {name}=1.5 (1 is off)")
    if not isinstance(scale, Schedule):
        return
    if not scale.over_tokens:
        raise BadValue(f"{name} cannot have {label(scale)} over tokens, which have no noise level: give a number, a Curve, "
                       "or an Interval with unit='progress'")
    if not timed:
        raise BadValue(f"{name} has a schedule, which needs the number of tokens: say tokens=N, as many as will be made")


def at_time(scale: Scale | None, step: Step) -> float:
    """The strength at `step` of a number or a schedule of time."""
    value = known(scale, step)
    assert value is not None, "check_timed has refused schedules that measure"
    return value


def label(scale: Scale | None) -> str:
    """A strength in a few letters: "4", "interval 4"."""
    if isinstance(scale, Schedule):
        return scale.name if scale.scale is None else f"{scale.name} {scale.scale:g}"
    return "" if scale is None else f"{scale:g}"

