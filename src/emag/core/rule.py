"""The base of all rules: frozen values that rewrite a running prediction.

A rule may change the condition before the clean pass (`condition`), ask for further branches (`branches`), give or rewrite
the unconditional branch (`new_null`) and rewrite the running prediction (`apply`). It knows nothing of images or networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch

from ..errors import Unsupported
from ..maths.predictions import Space
from .branch import Perturbation
from .fields import FiniteFields
from .schedule import Schedule
from .step import Branches, Look, RunStart, Step

RuleKind = Literal["condition", "attention", "weak", "null", "combining", "after", "energy"]
"""What a rule does: changes the condition; works inside the network's attention; pushes away from a weak branch; gives
or rewrites the unconditional branch; joins COND and UNCOND, and so replaces the host's CFG; works on what they give; moves
that to where a score is higher."""

LATE: tuple[RuleKind, ...] = ("after", "energy")
"""Kinds that work on the combined prediction."""

AUTO = (-1000,)
"""Layers that are chosen by the rule's `automatic_layers`; "auto" in recipes and in Python."""


@dataclass(frozen=True)
class Rule(FiniteFields):
    """Base of all rules. Subclasses are frozen dataclasses whose fields are plain data (they become recipes)."""

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    kind: ClassVar[RuleKind] = "combining"
    cost: ClassVar[str] = "none"  # evaluations beyond the conditional and the unconditional one
    of_null: ClassVar[bool] = False  # it changes what the unconditional rows are made of, and nothing where there are none
    required: ClassVar[Mapping[str, str]] = {}  # fields without which it cannot work, each with an example
    defaults_of: ClassVar[str] = ""  # another method, whose defaults it takes for the fields that both have
    remembers: ClassVar[bool] = False  # over tokens it keeps what earlier ones showed, row by row, which beams would mix up
    # The space the rule works in; None where any affine space gives the same. "path" is flow on a flow model's path and
    # epsilon elsewhere: what is compared with its own past lives there.
    space: ClassVar[Space | Literal["path"] | None] = None

    @property
    def neutral(self) -> bool:
        """True where the parameters switch the rule off; it is then left out of the run altogether."""
        return False

    def space_at(self, step: Step) -> Space | None:
        """`space` at `step`, with "path" resolved."""
        return step.path_space if self.space == "path" else self.space

    @property
    def rewrites_null(self) -> bool:
        """True where it gives or rewrites the unconditional branch, by `new_null`."""
        return type(self).new_null is not Rule.new_null

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """Blocks of a network of `depth` for a rule with `layers`, where neither the user nor a default names any."""
        return (depth // 2,)

    def fits_network(self, network: Any) -> None:
        """Raise `Unsupported` or `BadValue` where the rule, its defaults filled in, cannot work on a `Network`.

        Asked as soon as a pipeline is guided. What a rule reads from files, it reads here for the first time.
        """
        for field_ in fields(self):
            if isinstance(value := getattr(self, field_.name), Schedule):
                value.check()

    def fits_run(self, start: RunStart) -> None:
        """Raise `Unsupported` or `BadValue` where the rule cannot work in a run, before anything is evaluated."""

    def fits_tokens(self, timed: bool) -> None:
        """Raise `Unsupported` or `BadValue` where the rule cannot work on the logits of tokens; by default it cannot.

        timed: it is known how many tokens the run will have, which schedules need.
        """
        where = f"in {self.space}" if self.space else "on what a denoiser predicts"
        raise Unsupported(f"{self.name} works {where}, and nobody has said what it would mean for logits of tokens: leave "
                          "it out; cfg, negative, compose, ag and the rules of emag.tokens work there")

    @property
    def first_order(self) -> bool:
        """True where it is exact for first-order deterministic samplers (DDIM, Euler) only; others are then refused."""
        return False

    @property
    def looks_further(self) -> bool:
        """True where `apply` needs `Step.access`."""
        return False

    def looks(self, step: Step) -> tuple[Look, ...]:
        """Evaluations that `apply` asks of `Step.access` at this step, in a plan as in a run."""
        return ()

    @property
    def scores(self) -> tuple[Any, ...]:
        """Scores that it asks `Step.access` for, functions or names."""
        return ()

    @property
    def named(self) -> tuple[str, ...]:
        """Further conditions by name, which `condition` reads in `Step.given`, or the rule in `Access.under`."""
        return ()

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        """New values of the condition tensors, each [batch, ...], the same for all branches of the step."""
        return cond

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        """Further branches the rule may ask for."""
        return ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        """Further branches needed at this step."""
        return tuple(branch for branch in self.weak if branch.runs(step.index, step.sigmas))

    def spares_weak(self, step: Step, state: dict[str, Any]) -> bool:
        """True where `apply` goes without `branches(step)`, which are then not evaluated.

        Asked once for each step that has some, before it, in a plan (with a state of its own) as in a run.
        """
        return False

    def unread(self, step: Step) -> tuple[Perturbation, ...]:
        """Of a "null" rule: further branches needed at a step where nothing reads UNCOND."""
        return ()

    def reads_null(self, step: Step) -> bool:
        """True where `apply` reads UNCOND at this step, or its schedule does. Asked before the step is evaluated."""
        scale = getattr(self, "scale", None)
        return self.kind == "combining" or (isinstance(scale, Schedule) and scale.measures and scale.known(step) is None)

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        """True where `new_null` gives UNCOND at this step without its evaluation, which is then not made.

        Asked once for each step that reads UNCOND, before it, in a plan (with a state of its own) as in a run.
        """
        return False

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        """New unconditional prediction, in `space`, or None to leave it. UNCOND is not in `branches` where it was spared."""
        return None

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        """New running prediction, [batch, ...] fp32, in `space`. `state` is this rule's own, and dies with the run."""
        return pred
