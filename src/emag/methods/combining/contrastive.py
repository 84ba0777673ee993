"""Contrastive CFG: a negative prompt that stops pushing once the sample is far from it."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Conditioned, Perturbation, Rule, Step
from ...errors import BadValue
from ...maths.vectors import dot
from ...schedules import Scale, check_scale, known, weight
from ..common.other_model import check_negative


@dataclass(frozen=True)
class ContrastiveCFG(Rule):
    """Contrastive CFG: a prompt and a negative one, each weighed by how far it is from the unconditional prediction.

    With P = p - u and N = n - u, n the prediction under the negative prompt, on the path's straight space (epsilon as
    published, velocities on flows, which is ours):

        u + w (a P - against b N),  a = 2 / (1 + exp(-tau |P|^2)),  b = 2 / (1 + exp(tau |N|^2))

    Norms are sums over all entries, per sample, so that tau depends on the size of the latents. tau 0 is plain negation,
    u + w (P - against N); a large tau leaves the negative prompt out, and is CFG at 2 w, at w where `plain`.

    Args:
        scale: w, at least 0, or a schedule; 7.5 in the authors' script. None takes the model's default.
        negative: what to push away from: "prompt:a text", or a name from emag.guide(..., conditions=...). Not "cond"
            or "uncond".
        tau: at least 0; 0.2 in the authors' script, for latents of Stable Diffusion.
        against: weight of the negative prompt in units of w, at least 0; the authors' is 1.
        plain: take a = 1, as the authors' script does on request.

    >>> import emag
    >>> emag.ContrastiveCFG(7.5, negative="prompt:a yellow flower").tau
    0.2
    """

    scale: Scale | None = None
    negative: str = "negative"
    tau: float = 0.2
    against: float = 1.0
    plain: bool = False

    name = "contrastive"
    paper = "arXiv 2411.17077"
    equation = "u + w (2 P / (1 + exp(-tau |P|^2)) - 2 N / (1 + exp(tau |N|^2))), P = p - u, N = n - u"
    kind = "combining"
    space = "path"
    cost = "one evaluation of the conditional rows per step, under the negative prompt"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_negative(self.name, self.negative)
        if self.tau < 0 or self.against < 0:
            raise BadValue(f"contrastive tau and against must be at least 0, got {self.tau} and {self.against}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Conditioned(self.negative),) if self.against else ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if known(self.scale, step) == 0 else self.weak

    def reads_null(self, step: Step) -> bool:
        # with a = 1, no negative and w = 1 it is p
        return not self.plain or self.against > 0 or known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide, null = pred.double(), branches[UNCOND].double()
        push = wide - null
        scale = weight(self.scale, branches, step, state, wide)
        new = wide + (scale * (1.0 if self.plain else self._share(push, 1)) - 1) * push
        if self.branches(step):
            other = branches[Conditioned(self.negative)].double() - null
            new = new - scale * self.against * self._share(other, -1) * other
        return new.to(pred.dtype)

    def _share(self, push: torch.Tensor, sign: int) -> torch.Tensor:
        """2 / (1 + exp(-sign tau |push|^2)), per sample: from 1 at no length to 2 with sign 1, to 0 with sign -1."""
        return 2 * torch.sigmoid(sign * self.tau * dot(push, push))
