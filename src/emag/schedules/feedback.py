"""A guidance scale that is chosen at every step by scoring where it leads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ..core import Branches, Schedule, Step, check_scale
from ..errors import BadValue
from ..maths.predictions import to_x0
from .normed import both

FeedbackScore: TypeAlias = Callable[[torch.Tensor, Any], torch.Tensor]
"""score(x, step) -> [batch]: how good x [batch, ...] fp32 is, a sample of the level `step.next`; higher is better."""


@dataclass(frozen=True)
class Feedback(Schedule):
    """Dynamic CFG by online feedback: at each step, of several scales the one whose next sample scores best.

    Chosen per sample. The next sample is that of a first-order step to `step.next` under u + s (c - u), whatever the
    sampler then does. It costs one call of `score` per scale and step. A function is no plain data, so such a rule
    cannot be written into a recipe.

    Args:
        scale: the scale kept unless a choice scores higher, at least 0; None takes the rule's default.
        choices: further scales, each at least 0; the default is the paper's for latent diffusion.
        score: the evaluator, a function (x_next, step) -> [batch], higher is better; it reads noisy latents, so it is
            usually a small trained network. Several, as a tuple, are mixed as sum_e a_e e with a_e = (e - e_before) /
            e_before, e_before the score of what was chosen one step before (1 at the first step); scores should be
            positive then. The paper's words allow other readings.

    >>> import emag
    >>> def calm(x, step):  # a toy: prefers small samples
    ...     return -x.flatten(1).norm(dim=1)
    >>> emag.CFG(emag.Feedback(4.0, choices=(1.0, 8.0), score=calm)).scale.measures
    True
    """

    choices: tuple[float, ...] = (1.0, 3.0, 7.5, 11.0, 15.0)
    score: FeedbackScore | tuple[FeedbackScore, ...] | None = None

    name = "feedback"
    paper = "arXiv 2509.16131"
    equation = "argmax over s of score(x'(u + s (c - u)))"
    cost = "one evaluation of the score per choice"

    def __post_init__(self) -> None:
        super().__post_init__()
        for choice in self.choices:
            check_scale(self.name, choice, field="choices")
        if self.choices and not self._scores:
            raise BadValue("feedback needs score=..., a function (x_next, step) -> one number per sample")

    @property
    def _scores(self) -> tuple[FeedbackScore, ...]:
        return self.score if isinstance(self.score, tuple) else () if self.score is None else (self.score,)

    def known(self, step: Step) -> float | None:
        return self.scale if set(self.choices) <= {self.scale} else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        if self.known(step) is not None:
            return self.strength
        cond, uncond = both(self.name, branches)
        scales = list(dict.fromkeys((self.strength, *self.choices)))
        samples = (stepped(torch.lerp(uncond, cond, scale), step).float() for scale in scales)
        scores = torch.stack([torch.stack([score(x, step).double() for score in self._scores]) for x in samples])
        best = self._mixed(scores, state.get("before")).nan_to_num(-torch.inf).argmax(0)
        state["before"] = scores[best, :, torch.arange(len(best), device=best.device)].T
        return torch.tensor(scales, device=cond.device, dtype=torch.float64)[best]

    def _mixed(self, scores: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """[scales, evaluators, batch] to [scales, batch]."""
        if before is None or scores.shape[1] == 1:
            return scores.sum(1)
        return (torch.where(before != 0, scores / before - 1, 1.0) * scores).sum(1)


def stepped(pred: torch.Tensor, step: Step) -> torch.Tensor:
    """x [batch, ...] at `step.next`: a DDIM step, on a flow an Euler step, along `pred`, which is in `step.space`."""
    alpha, sigma = step.next
    keep = sigma / step.sigma if step.sigma else 0.0
    # alpha' x0 + sigma' epsilon with epsilon = (x - alpha x0) / sigma
    return keep * step.x + (alpha - keep * step.alpha) * to_x0(pred, step.x, step.alpha, step.sigma, step.space)
