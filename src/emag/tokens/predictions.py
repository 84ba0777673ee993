"""Guidance of what a loop of one's own predicts: hidden states, logits or probabilities, of tokens or of latents."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import torch

from ..core import COND, UNCOND, Rule, TokenStep, needed_branches, needs_null, weak_branches
from ..errors import BadValue, NoEffect, Unsupported
from ..maths.predictions import TokenSpace
from ..maths.streams import Streams
from ..methods.tokens.soft_cfg import SoftCFG
from .algebra import guided_by
from .checks import check_token_rules, token_space
from .run import TokenGuidance

Prediction: TypeAlias = torch.Tensor | Callable[[], torch.Tensor]
"""A prediction, [rows, ...], or a function that makes it, which is called where a rule reads it alone."""


class Predictions:
    """Rules on predictions that are given. steps: calls so far; evaluated: how often each branch was read, by name."""

    def __init__(self, asked: TokenGuidance, count: int, project: Callable[[torch.Tensor], torch.Tensor] | None):
        self.asked, self.count, self.project = asked, count, project
        self.reset()

    def reset(self) -> None:
        """The next call begins another sequence."""
        self.steps, self.evaluated, self._differed = 0, dict[str, int](), dict[str, bool]()
        self._states: list[dict[str, Any]] = [{} for _ in self.asked.rules]

    def finish(self) -> None:
        """Raise `NoEffect` where a branch was the conditional prediction itself at every step."""
        same = next((name for name, differed in self._differed.items() if not differed), None)
        if same:
            raise NoEffect(f"the prediction {same!r} was the conditional one at every step, so nothing was guided: is its "
                           "condition left out?")

    @torch.no_grad()
    def __call__(self, cond: torch.Tensor, null: Prediction | None = None, live: torch.Tensor | None = None,
                 **others: Prediction) -> torch.Tensor:
        """The guided prediction, fp32, of the shape of cond [rows, ...]. others: conditions that rules name.

        live: which rows are still read by somebody, bool, [rows], or [rows, places] of cond; None is all (see MTI).
        """
        flat = self._in_space(cond)
        step = self._step(flat, live)
        self.steps += 1
        branches: dict[Hashable, torch.Tensor] = {COND: flat}
        for branch in needed_branches(self.asked.rules, step, self._states):
            name = branch.condition or UNCOND
            branches[branch] = self._read(name, null if name == UNCOND else others.get(name), cond)
        if self.asked.combines and needs_null(self.asked.rules, step, self._states):
            branches[UNCOND] = self._read(UNCOND, null, cond)
        guided = guided_by(self.asked.rules, branches, step, self._states)
        return guided if self.project is None else self.project(guided)

    def _read(self, name: str, given: Prediction | None, cond: torch.Tensor) -> torch.Tensor:
        made = given() if callable(given) else given
        if made is None or made.shape != cond.shape:
            raise BadValue(f"the prediction {name!r} must be given, in the shape {tuple(cond.shape)} of the conditional "
                           f"one, got {None if made is None else tuple(made.shape)}")
        self.evaluated[name] = self.evaluated.get(name, 0) + 1
        self._differed[name] = self._differed.get(name, False) or not torch.equal(made, cond)
        return self._in_space(made)

    def _in_space(self, prediction: torch.Tensor) -> torch.Tensor:
        return prediction.float().log_softmax(-1) if self.asked.space == "logp" else prediction.float()

    def _step(self, cond: torch.Tensor, live: torch.Tensor | None) -> TokenStep:
        none = (float("nan"),) * max(self.count, self.steps + 1)
        live = torch.ones(len(cond), dtype=torch.bool, device=cond.device) if live is None else live.to(cond.device)
        return TokenStep(self.steps, none, none, 1.0, self.asked.space, cond, Streams.of(cond), cond=cond, live=live)


def predictions(*rules: Rule, space: str = "logits", steps: int = 0,
                project: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Predictions:
    """`rules` on predictions of a loop of one's own: `guide(cond, null)` at each step, in the order of the steps.

        guide = emag.tokens.predictions(emag.CFG(5.0), space="logits")     # ChemBFN, arXiv 2407.20294: y = w - 1 = 4
        logits = guide(network(x, t, label), lambda: network(x, t, None))  # called where a rule reads it alone

    space: "logits" (ChemBFN), "hidden" states before affine heads (Eruku, arXiv 2510.23240, w = 1.25: the same as guiding
    what each head says), "prob" (Dirichlet flows, arXiv 2402.05841) or "logp". Rules that are affine work in all of them,
    others in "logp" alone. steps: how many there will be, for schedules. project: what is done to the guided prediction
    after the last rule, such as `emag.tokens.on_simplex`. Raises `BadValue` and `Unsupported`.
    """
    active = tuple(rule for rule in rules if not (isinstance(rule, Rule) and rule.neutral))
    names = [branch.condition for rule in active if isinstance(rule, Rule) for branch in weak_branches((rule,))]
    given = {name: None for name in names if name and name != UNCOND}
    found: TokenSpace = token_space(space)
    asked = TokenGuidance(active, None, given, space=found)
    check_token_rules(asked, steps > 0)
    softened = next((rule.name for rule in active if isinstance(rule, SoftCFG)), None)
    if softened:
        raise Unsupported(f"{softened} softens what its null has kept of the tokens, and predictions are given whole: use "
                          "emag.tokens.guide")
    return Predictions(asked, steps, project)
