"""One run over tokens: the rules of a guidance, token by token."""

import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core import COND, UNCOND, Perturbation, Rule, TokenStep, needed_branches, needs_null
from ..errors import BadValue, NoEffect, NotFinite, Unsupported
from ..maths.logits import soft_value_weights
from ..maths.predictions import TokenSpace
from ..maths.streams import Streams
from ..methods.tokens.base import Scored, best
from ..methods.tokens.soft_cfg import SoftCFG
from .algebra import guided_by
from .codecs import TokenShape
from .context import Inputs, Null, inputs_of, read_context, with_encoder
from .follower import Follower
from .hidden import HiddenStates
from .stats import TokenStats
from .suffix import Suffix, SuffixReader, Watched

Scorer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(texts as token ids [rows, length], candidates [rows, n]) -> log-probability of a class once each is added, [rows, n]."""


@dataclass(frozen=True)
class TokenGuidance:
    """What the user asks for: rules that act, what their branches are made of, and the space they see."""

    rules: tuple[Rule, ...]
    null: Null = None
    conditions: Mapping[str, Null] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    tokenizer: Any = None
    space: TokenSpace = "logp"

    @property
    def suffixed(self) -> bool:
        """Whether a branch reads the prompt's own cache."""
        return any(isinstance(null, Suffix) for null in (self.null, *self.conditions.values()))

    @property
    def combines(self) -> bool:
        return any(rule.kind == "combining" for rule in self.rules)

    def condition(self, name: str) -> Null:
        """What the branch `name` is made of."""
        return self.null if name == UNCOND else self.conditions.get(name, name.removeprefix("prompt:"))


class TokenRun:
    """A logits processor: (input_ids [rows, length], scores [rows, vocabulary]) -> guided scores, fp32.

    inputs: what the call is conditioned on. count: tokens that will be made at most, 0 where nobody knows. ends: tokens
    that end a row. shape: what the model's decoder is fed for the tokens so far. hidden: its states, where they are guided.
    watched: the prompt's own passes, where a branch reads their cache.
    """

    def __init__(self, model: Any, asked: TokenGuidance, inputs: Inputs, count: int = 0, ends: torch.Tensor | None = None,
                 shape: TokenShape | None = None, hidden: HiddenStates | None = None, watched: Watched | None = None):
        self.asked, self.count, self._hidden, self._watched = asked, count, hidden, watched
        self._model, self._inputs, self._ends, self._shape = model, inputs, ends, shape
        self._states: list[dict[str, Any]] = [{} for _ in asked.rules]
        self._followers: dict[str, Follower | SuffixReader] = {}
        self._prompt: torch.Tensor | None = None
        self._streams: Streams | None = None
        self._sure: list[torch.Tensor] = []
        self._differed: dict[str, torch.Tensor] = {}
        self._scored = self._tokens = 0
        self._start = time.perf_counter()

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with nullcontext() if self._watched is None else self._watched.passes():
            return self._guided(input_ids, scores)

    def _guided(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        generated = self._generated(input_ids)
        # a loop with a doubled batch of its own (Janus) brings the null's logits along, behind the prompts'
        cond, *null = self._predicted(scores).split(len(input_ids))
        step = self._step(input_ids, generated, cond, self._tokens if null else generated.shape[1])
        others = self._brought(null[0], step) if null else self._branches(step, input_ids)
        guided = guided_by(self.asked.rules, {COND: cond, **others}, step, self._states)
        self._tokens = max(self._tokens, step.index + 1)
        if not bool((guided.amax(-1) > -torch.inf).all()):  # where one is NaN, so is the largest
            what = "are not numbers (NaN)" if guided.isnan().any() else "exclude every token: its scorers leave none"
            raise NotFinite(f"the guided logits of token {step.index} {what}")
        return self._scores(guided, scores, bool(others))

    def _predicted(self, scores: torch.Tensor) -> torch.Tensor:
        return self._in_space(scores) if self._hidden is None else self._hidden.take()

    def _scores(self, guided: torch.Tensor, scores: torch.Tensor, moved: bool) -> torch.Tensor:
        """What decoding goes on with. scores: the prompt's own; moved: a branch was evaluated."""
        if self._hidden is not None:
            guided = self._hidden.logits(guided).to(scores.device) if moved else scores.float()
        return guided if self.asked.space == "logits" else guided.log_softmax(-1)

    def stats(self) -> TokenStats:
        """What the run did."""
        rows = 0 if self._prompt is None else len(self._prompt)
        return TokenStats(type(self._model).__name__, tuple(rule.name for rule in self.asked.rules), rows, self._tokens,
                          {name: one.passes for name, one in self._followers.items()},
                          {name: one.tokens for name, one in self._followers.items()}, self._scored,
                          time.perf_counter() - self._start)

    def finish(self) -> None:
        """Raise `NoEffect` where a branch gave what the prompt itself gives, at every token."""
        same = next((name for name, differed in self._differed.items() if not bool(differed)), None)
        if same:
            raise NoEffect(f"the branch {same!r} gave the same logits as the prompt at every token, so nothing was guided: "
                           "is it the prompt itself? Say null=, or a longer prompt (by default the null is its last token)")

    def _generated(self, ids: torch.Tensor) -> torch.Tensor:
        if self._prompt is None:
            self._prompt, self._streams = ids.clone(), Streams.of(ids)
            if self._model.config.is_encoder_decoder is False and self._inputs.get("input_ids") is None:
                self._inputs = {**self._inputs, "input_ids": ids}
        known = self._prompt.shape[1]
        if ids.shape[1] < known or not torch.equal(ids[:, :known], self._prompt):
            raise BadValue("these tokens do not go on from the prompt this guidance began with: call reset() before another "
                           "text")
        return ids[:, known:]

    def _in_space(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().log_softmax(-1) if self.asked.space == "logp" else logits.float()

    def _step(self, ids: torch.Tensor, generated: torch.Tensor, cond: torch.Tensor, index: int) -> TokenStep:
        none = (float("nan"),) * max(self.count, index + 1)
        live = torch.ones(len(ids), dtype=torch.bool, device=cond.device)
        if self._ends is not None:
            live = ~torch.isin(generated, self._ends.to(generated.device)).any(1).to(cond.device)
        assert self._streams is not None
        return TokenStep(index, none, none, 1.0, self.asked.space, ids, self._streams, cond=cond, live=live)

    def _brought(self, null: torch.Tensor, step: TokenStep) -> dict[Hashable, torch.Tensor]:
        """The null's logits that the loop itself has made."""
        name = type(self._model).__name__
        further = next((rule.name for rule in self.asked.rules if rule.weak or rule.remembers), None)
        further = further or ("space='hidden'" if self._hidden else None)
        if further or self.asked.null is not None:
            raise Unsupported(f"{name} makes a null branch of its own here, and no other: leave out {further or 'null='}")
        self._note(UNCOND, null, step)
        return {UNCOND: null}

    def _branches(self, step: TokenStep, ids: torch.Tensor) -> dict[Hashable, torch.Tensor]:
        """The predictions of one step beside the conditional one, in the run's space."""
        found: dict[Hashable, torch.Tensor] = {}
        self._sure[step.index:] = [step.cond.softmax(-1).amax(-1)]
        for branch in needed_branches(self.asked.rules, step, self._states):
            found[branch] = self._score(branch, step, ids) if isinstance(branch, Scored) else self._follow(branch, step, ids)
        if self.asked.combines and needs_null(self.asked.rules, step, self._states):
            found[UNCOND] = self._follow(None, step, ids)
        return found

    def _follow(self, branch: Perturbation | None, step: TokenStep, ids: torch.Tensor) -> torch.Tensor:
        name = UNCOND if branch is None else branch.condition or UNCOND
        if name not in self._followers:
            self._followers[name] = self._opened(name, len(ids))
        assert self._prompt is not None
        # a decoder that reads the prompt gets another one in its place; one beside an encoder starts as it does
        own = 0 if self._model.config.is_encoder_decoder else self._prompt.shape[1]
        weights = None
        if name == UNCOND and any(isinstance(rule, SoftCFG) for rule in self.asked.rules):
            weights = self._weights(step, ids.shape[1] - own)
        predicted = self._in_space(self._followers[name].logits(ids[:, own:], weights).to(step.cond.device))
        self._note(name, predicted, step)
        return predicted

    def _note(self, name: str, predicted: torch.Tensor, step: TokenStep) -> None:
        """Take down whether a branch ever differed from the prompt's."""
        differs = (predicted != step.cond).any()
        self._differed[name] = self._differed[name] | differs if name in self._differed else differs

    def _opened(self, name: str, rows: int) -> Follower | SuffixReader:
        null, hidden = self.asked.condition(name), self._hidden
        read = None if hidden is None else lambda out: hidden.take()
        if isinstance(null, Suffix):
            assert self._watched is not None and self._prompt is not None
            ids = null.ids(self.asked.tokenizer)
            return SuffixReader(self._model, ids, self._prompt.shape[1], self._watched, read)
        call = with_encoder(self._model, self._inputs)
        text = "null" if name == UNCOND else f"condition {name!r}"
        given = inputs_of(null, call, self._model, self.asked.tokenizer, text)
        ids = call.get("input_ids")
        samples = len(ids) if ids is not None else len(call["encoder_outputs"].last_hidden_state)
        place = self._model.device
        moved = {key: one.to(place) if isinstance(one, torch.Tensor) else one for key, one in given.items()}
        context = read_context(self._model, moved, samples, text).repeated(rows)
        return Follower(self._model, context, self._shape, read)

    def _weights(self, step: TokenStep, length: int) -> torch.Tensor:
        """SoftCFG's weights of the tokens a decoder reads after its context: 1 for those it was given."""
        given = torch.ones(len(step.cond), length - step.index, device=step.cond.device)
        if step.index == 0:
            return given
        return torch.cat([given, soft_value_weights(torch.stack(self._sure[:step.index], dim=1))], dim=1)

    def _score(self, branch: Scored, step: TokenStep, ids: torch.Tensor) -> torch.Tensor:
        candidates = best(step.cond, branch.top)
        score = self.asked.scorers[branch.scorer](ids, candidates).to(step.cond)
        odd = ~score.isfinite() if branch.signed else (score > 1e-6) | score.isnan()
        if score.shape != candidates.shape or bool(odd.any()):
            what = "numbers" if branch.signed else "log-probabilities, at most 0,"
            raise BadValue(f"the scorer {branch.scorer!r} must return {what} of shape {tuple(candidates.shape)}, "
                           f"a number for each candidate; got {tuple(score.shape)}")
        self._scored += 1
        return torch.full_like(step.cond, -torch.inf).scatter(1, candidates, score)
