"""Adaptive guidance: no unconditional evaluation once the branches agree."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import COND, UNCOND, Branches, Rule, RunStart, Step
from ...errors import BadValue, Unsupported
from ...maths.predictions import convert
from ...maths.vectors import per_sample

AGSpace = Literal["x0", "epsilon", "logp"]
PUBLISHED = 0.991
"""The paper's threshold: of epsilon predictions, on a variance-preserving latent diffusion model of 20 steps."""


@dataclass(frozen=True)
class AG(Rule):
    """Adaptive guidance: stop evaluating the unconditional branch once it agrees with the conditional one.

    Once cos(c, u) >= threshold, u is c for the rest of the run. Decided per sample. The unconditional evaluation is
    dropped when all samples of the batch agree, so that an image never depends on its batch mates. Asks the device
    once a step.

    The paper compares epsilon, and stops at 0.991 on a latent diffusion model of 20 steps, for a quarter fewer
    evaluations. The number means another thing in another space and on another path: on a flow, epsilon is above it from
    the first step on, so that this threshold is refused there.

    Args:
        threshold: cosine from which on the branches agree, in (-1, 1]; above 1 is off. None takes the model's for x0, and
            the paper's 0.991 for epsilon.
        on: space of the cosine: "x0", or "epsilon", the paper's; for tokens "logp". In epsilon branches agree near pure
            noise whatever they say (where alpha is 0, nothing is decided).

    >>> import emag
    >>> emag.AG(0.99).equation, emag.AG(1.1).neutral
    ('u <- c from the first step with cos(c, u) >= threshold', True)
    """

    threshold: float | None = None
    on: AGSpace = "x0"

    name = "ag"
    paper = "arXiv 2312.12487"
    equation = "u <- c from the first step with cos(c, u) >= threshold"
    kind = "null"
    cost = "spares the unconditional evaluation from then on"
    remembers = True

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.threshold == self.threshold:
            raise BadValue(f"ag threshold must be a number, about 0.999, got {self.threshold}")
        if self.threshold is None and self.on == "epsilon":
            object.__setattr__(self, "threshold", PUBLISHED)
        if self.threshold is None and self.on == "logp":
            raise BadValue("ag has no default threshold for logp: name one of yours (nobody has published one)")

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if self.on == "logp":
            raise BadValue("ag on 'logp' is for tokens: a denoiser's branches are compared on 'x0' or 'epsilon'")

    def fits_tokens(self, timed: bool) -> None:
        if self.on != "logp":
            raise BadValue(f"ag compares branches in {self.on}, which tokens have not: say on='logp' and a threshold of "
                           "yours (nobody has published one)")

    @property
    def neutral(self) -> bool:
        return self.threshold is not None and self.threshold > 1

    def fits_run(self, start: RunStart) -> None:
        self.fits_network(None)
        if self.on == "epsilon" and self.threshold == PUBLISHED and start.first.path_space == "flow":
            raise Unsupported(f"ag's {PUBLISHED} in epsilon is for variance-preserving paths, and on this flow all branches "
                              "agree to it from the first step on: leave on=epsilon out, or name a threshold measured here")

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        return "agree" in state and bool(state["agree"].all())

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        assert self.threshold is not None, "a rule runs with its defaults filled in"
        cond = branches[COND]
        if UNCOND not in branches:
            return cond
        agreed = state.get("agree")
        new = cond if agreed is None else torch.where(per_sample(agreed, cond), cond, branches[UNCOND])
        now = self._cosine(branches, step) >= self.threshold
        # at pure noise epsilon is x itself in both branches, and cosine 1 says nothing
        if self.on == "epsilon" and step.alpha == 0:
            now = torch.zeros_like(now)
        # for the next step: at this one u has been evaluated
        state["agree"] = now if agreed is None else agreed | now
        return new if agreed is not None else None

    def _cosine(self, branches: Branches, step: Step) -> torch.Tensor:
        at = (step.x, step.alpha, step.sigma, step.space, self.on)
        cond, uncond = (convert(branches[name], *at).flatten(1) for name in (COND, UNCOND))
        return torch.cosine_similarity(cond, uncond, dim=1)
