"""Safe latent diffusion: away from a concept, at just those entries where the prompt comes near it."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Conditioned, Perturbation, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.vectors import widened
from ...schedules import Scale, check_scale, known, weight
from ..common.history import moves_on
from ..common.other_model import check_negative
from ..common.warm_up import check_warm_up


@dataclass(frozen=True)
class SLD(Rule):
    """Safe latent diffusion: CFG whose push leaves out, entry by entry, what leads towards an unwanted concept.

    u + w (D - G), D = p - u, with n the prediction under the concept and

        G = m (n - u) + momentum V
        m = min(1, strength |p - n|) where p - n < threshold, else 0

    m is one number for each entry, and V the running mean of G: V <- decay V + (1 - decay) G after each step, from the
    first on. On the path's straight space: epsilon as published, velocities on flows, where p - n has the same sign.

    Published settings of (strength, threshold, warm_up, momentum, decay): weak (20, 0, 15, 0, 0), medium, the default,
    strong (2000, 0.025, 7, 0.5, 0.7) and max (5000, 1, 0, 0.5, 0.7), for 50 steps of Stable Diffusion.

    Args:
        scale: w, at least 0, or a schedule. 7.5 with the published settings. None takes the model's default.
        negative: the concept: "prompt:a text", or a name from emag.guide(..., conditions=...). Not "cond" or "uncond".
        strength: how fast m rises to 1, at least 0; 0 is CFG.
        threshold: how far above n an entry of p may lie and still be moved, any finite number.
        warm_up: how many first steps are those of CFG, at least 0.
        momentum: share of V, at least 0; 0 remembers nothing.
        decay: share of V that a step keeps, in [0, 1).

    >>> import emag
    >>> emag.SLD(7.5, negative="prompt:blood, wounds").space
    'path'
    """

    scale: Scale | None = None
    negative: str = "negative"
    strength: float = 1000.0
    threshold: float = 0.01
    warm_up: int = 10
    momentum: float = 0.3
    decay: float = 0.4

    name = "sld"
    paper = "arXiv 2211.05105"
    equation = "u + w (D - m (n - u) - momentum V), m = min(1, strength |p - n|) where p - n < threshold"
    kind = "combining"
    space = "path"
    cost = "one evaluation of the conditional rows per step, under the concept; none in the warm-up without momentum"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_negative(self.name, self.negative)
        if self.strength < 0 or self.warm_up < 0 or self.momentum < 0 or not 0 <= self.decay < 1:
            raise BadValue("sld strength (0 is CFG), warm_up and momentum must be at least 0, decay in [0, 1), got "
                           f"{self.strength}, {self.warm_up}, {self.momentum}, {self.decay}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Conditioned(self.negative),) if self.strength else ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        # V grows in the warm-up too, and while w is 0
        return self.weak if self.momentum or self._acts(step) else ()

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1 or bool(self.branches(step))

    def fits_run(self, start: RunStart) -> None:
        if self.strength:
            check_warm_up(self.name, self.warm_up, start)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = widened(pred)
        null = branches[UNCOND].to(wide)
        scale = weight(self.scale, branches, step, state, wide)
        new = wide + (scale - 1) * (wide - null)
        if self.branches(step):
            avoided = self._avoided(wide, null, branches[Conditioned(self.negative)].to(wide), step, state)
            new = new - scale * avoided if self._acts(step) else new
        return new.to(pred.dtype)

    def _acts(self, step: Step) -> bool:
        return step.index >= self.warm_up and known(self.scale, step) != 0

    def _avoided(self, pred: torch.Tensor, null: torch.Tensor, concept: torch.Tensor, step: Step,
                 state: dict[str, Any]) -> torch.Tensor:
        """G of this step; V goes on."""
        if moves_on(step, state):
            state["before"] = state.get("mean", torch.zeros_like(pred))
        near = pred - concept
        share = torch.where(near < self.threshold, (self.strength * near.abs()).clamp(max=1), 0.0)
        found = share * (concept - null) + self.momentum * state["before"]
        state["mean"] = self.decay * state["before"] + (1 - self.decay) * found
        return found
