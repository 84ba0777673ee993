"""Residual CFG: a fixed clean image in the place of the unconditional network."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import COND, UNCOND, Branches, Step
from ...errors import BadValue
from ...maths.predictions import difference_scale, from_x0, to_x0
from ..common.saver import Saver

RCFGResidual = Literal["self", "onetime", "full"]


@dataclass(frozen=True)
class RCFG(Saver):
    """Residual CFG of StreamDiffusion: a fixed clean image in place of the unconditional network.

    u = delta r, r = (x - alpha x0*) / sigma, in epsilon. r is the noise left in x if the image were x0*, which stays
    fixed for the run. (From one level to the next that is the paper's recursion of the residual noise, for a sampler
    that denoises all the way and noises anew.) The authors' scale is 1.2.

    Args:
        residual: where x0* comes from. "self": x0* is the image that the run starts from, where the host tells it
            (`emag.hosts.stream`, `emag.guided(image=...)`), elsewhere 0, as in text to image: on the first step r is the
            initial noise itself; no evaluation. "onetime": x0* is what the first unconditional prediction says, one
            evaluation; image to image in a pipeline, which does not tell its image, wants this one. "full": the
            unconditional prediction itself, which is off.
        delta: factor on r, finite, at least 0; the authors' default is 1. Where alpha is 0 there is no delta: epsilon
            tells nothing there.

    >>> import emag
    >>> emag.RCFG("onetime").cost, emag.RCFG("full").neutral
    ('spares all unconditional evaluations, or all but one', True)
    """

    residual: RCFGResidual = "self"
    delta: float = 1.0

    name = "rcfg"
    paper = "arXiv 2312.12491"
    equation = "u <- delta (x - alpha x0*) / sigma"
    cost = "spares all unconditional evaluations, or all but one"

    def __post_init__(self) -> None:
        if not 0 <= self.delta < math.inf:
            raise BadValue(f"rcfg delta must be finite and at least 0, got {self.delta}")

    @property
    def neutral(self) -> bool:
        return self.residual == "full"

    @property
    def needs(self) -> int:
        return 1 if self.residual == "onetime" else 0

    def due(self, step: Step) -> bool:
        return self.residual != "full"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if "clean" not in state:
            if self.residual == "onetime" and UNCOND not in branches:
                return None
            state["clean"] = self._clean(branches, step)
        return residual(state["clean"], step, self.delta).to(branches[COND].dtype)

    def _clean(self, branches: Branches, step: Step) -> torch.Tensor:
        if self.residual == "self":
            # without an image x0* = 0: all of x is read as noise
            return torch.zeros_like(step.x) if step.image is None else step.image.expand_as(step.x)
        return to_x0(branches[UNCOND], step.x, step.alpha, step.sigma, step.space)


def residual(clean: torch.Tensor, step: Step, delta: float = 1.0) -> torch.Tensor:
    """The prediction in `step.space` that says delta (x - alpha clean) / sigma in epsilon; same shape as `clean`."""
    plain = from_x0(clean, step.x, step.alpha, step.sigma, step.space)
    if delta == 1 or (step.alpha == 0 and step.space != "epsilon"):
        return plain
    # delta r is r + (delta - 1) r in epsilon, and a difference goes to another space by a factor
    noise = from_x0(clean, step.x, step.alpha, step.sigma, "epsilon")
    return plain + (delta - 1) * difference_scale(step.alpha, step.sigma, "epsilon", step.space) * noise
