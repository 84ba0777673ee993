"""ERG: a prediction at another attention temperature takes the place of the unconditional one."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Conditioned, Perturbation, Side, Step
from ...errors import BadValue
from ..common.null_branch import NullBranch
from ..common.push import layers_of
from ..common.rectified import RectifiedAttention, check_rectified


@dataclass(frozen=True)
class ERG(NullBranch):
    """Entropy rectifying guidance: a prediction at another attention temperature in place of the unconditional one.

    Whatever combines (the host's CFG, CFG, APG) then gives weak + w (cond - weak), with no unconditional evaluation.
    In the weak branch the attention of image queries is Q <- Q - gamma (Q - alpha softmax(tau S) V), `steps` times;
    text rows stay. This is the image side of the paper; `text` is its text side.

    tau, kickoff and blocks are those of EMAG's baseline on DiT; the paper's own per model are unconfirmed, and so is
    what that baseline does before the kick-off. `ERGPush` pushes away from the same weak branch beside CFG.

    Args:
        layers: blocks at another temperature, by number; None takes the model's, "auto" the middle block.
        tau: factor on the logits, at least 0; 1 is none and 0 uniform attention.
        kickoff: share of the run before it acts, in [0, 1]; 0 acts from the start, 1 never.
        early: until the kick-off u is evaluated ("uncond": plain CFG), or is the conditional prediction ("cond": no
            guidance, the formula without its text side), as it always is on a network without unconditional rows.
        alpha: weight of the attention's output, at least 0.
        gamma: step size, at least 0.
        steps: how often, at least 1.
        text: name of a condition that was encoded at another temperature (`emag.hosts.weak_text.weak_text` makes it).
            The weak prediction is then made under it at every step, and the image side joins at the kick-off. None:
            the conditional rows' own condition.

    >>> import emag
    >>> emag.ERG(tau=0.01, kickoff=0.2).equation
    'u <- weak, from the kick-off on'
    """

    layers: tuple[int, ...] | None = None
    tau: float = 0.01
    kickoff: float = 0.2
    early: Side = "uncond"
    alpha: float = 1.0
    gamma: float = 1.0
    steps: int = 1
    text: str | None = None

    name = "erg"
    paper = "arXiv 2504.13987"
    equation = "u <- weak, from the kick-off on"
    cost = "one weak evaluation, from the first block that differs on, instead of the unconditional one"

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, self.layers))
        check_rectified(self.name, (self.tau, self.alpha, self.gamma), self.steps)
        if not 0 <= self.kickoff <= 1:
            raise BadValue(f"erg kickoff must lie in [0, 1] (0 acts from the start, 1 never), got {self.kickoff}")

    @property
    def neutral(self) -> bool:
        return self.kickoff == 1 and self.early == "uncond" and self.text is None

    @property
    def perturbation(self) -> RectifiedAttention:
        assert self.layers is not None
        return RectifiedAttention(self.layers, self.tau, self.alpha, self.gamma, self.steps, self.text)

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        image = (self.perturbation,) if self.kickoff < 1 else ()
        return image if self.text is None else (*image, Conditioned(self.text))

    def acts(self, step: Step) -> bool:
        """True from the kick-off on."""
        return step.index / step.count >= self.kickoff

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        if self.acts(step):
            return (self.perturbation,)
        return () if self.text is None else (Conditioned(self.text),)

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        return bool(self.branches(step)) or self.early == "cond"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        given = self.branches(step)
        if given:
            return branches.get(given[0])
        # before the kick-off: c - u is 0 with u = c, so CFG is off; or the host's own u
        return branches[COND] if self.early == "cond" or UNCOND not in branches else None
