"""CFG-Zero*: no movement in the first steps."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, Step
from ...errors import BadValue


@dataclass(frozen=True)
class ZeroInit(Rule):
    """The zero-init of CFG-Zero*: leave x as it is in the first steps of a run.

    The combined velocity is 0 there, exactly where the network gives a velocity, up to rounding elsewhere. Works on
    the combined prediction: where there is an unconditional one, name a combining rule before it; a
    guidance-distilled network needs none. The other half of the method is `ZeroStar`.

    diffusers counts like `steps` (zero_init_steps=1 is steps=1), the authors' code one less (zero_steps=0 is steps=1;
    its Wan2.1 text-to-video value of 1 is steps=2).

    Args:
        steps: how many, a whole number of at least 0; 0 is off. None takes `share` of the run, rounded down, and at
            least one.
        share: share of the run, in [0, 1], where `steps` is None; 0 is off, 0.04 as the paper recommends (2 of 50
            steps).

    >>> import emag
    >>> emag.ZeroInit().zeroed(50), emag.ZeroInit(steps=1).zeroed(50)
    (2, 1)
    """

    steps: int | None = None
    share: float = 0.04

    name = "zero-init"
    paper = "arXiv 2503.18886"
    equation = "0 in the first steps"
    kind = "after"
    space = "flow"

    def __post_init__(self) -> None:
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 0):
            raise BadValue(f"zero-init steps must be a whole number of at least 0 or None, got {self.steps!r}")
        if not 0 <= self.share <= 1:
            raise BadValue(f"zero-init share must lie in [0, 1], got {self.share}")

    @property
    def neutral(self) -> bool:
        return self.steps == 0 or (self.steps is None and self.share == 0)

    def zeroed(self, count: int) -> int:
        """Steps that are zeroed in a run of `count`."""
        # the small term keeps 0.04 of 25 at 1
        return max(1, int(self.share * count + 1e-9)) if self.steps is None else self.steps

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        return torch.zeros_like(pred) if step.index < self.zeroed(step.count) else pred
