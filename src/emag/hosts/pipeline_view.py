"""What a run asks of a diffusers pipeline: the kind and the rows of its network calls, and the path of its scheduler."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..core import PLENTY, Part, Rows, Score, Sparing, Step
from ..engine.arguments import Arguments
from ..engine.network import Network
from ..engine.trajectory import Trajectory, preconditioned, trajectory, trigonometric
from ..engine.undo import Undo, patch
from ..engine.view import CallKind
from ..families import Host
from .decoding import decode


class PipelineView:
    """What a run asks of a pipeline: the kind and rows of its network calls, by its table entry."""

    def __init__(self, host: Host, pipe: Any, arguments: dict[str, Any], conditions: dict[str, dict[str, Any]],
                 models: dict[str, Any], scores: Mapping[str, Score] | None = None):
        self.host, self.pipe, self.arguments, self.conditions, self.models = host, pipe, arguments, conditions, models
        self.scores = scores or {}
        self.uncond = host.guides(arguments)
        self.tag: str | None = None
        self._waiting: torch.Tensor | None = None  # x_t of an untagged conditional call
        self._second = False  # of two calls in turn, the second is next

    @property
    def alone(self) -> bool:
        """True where a callback has ended the pipeline's own guidance: those that may be have a property that says so."""
        return self.uncond and not getattr(self.pipe, "do_classifier_free_guidance", True)

    def kind(self, arguments: Arguments) -> CallKind:
        if self.host.third_call and arguments.values.get(self.host.third_call) is not None:
            return "other"
        if self.host.doubled or not self.uncond or self.alone:
            return "both" if self.uncond and not self.alone else "cond"
        if self.host.layout == "calls":
            return "uncond" if self.tag in ("uncond", "pred_uncond") else "cond"
        if self.host.layout == "calls-in-turn":
            self._second = not self._second
            return "cond" if self._second else "uncond"
        return self._untagged(arguments.sample)

    def _untagged(self, x: torch.Tensor) -> CallKind:
        """Of two calls in turn with the same x_t, the second is the unconditional one."""
        # the same memory: a network whose channels come last is seen through a view of its own in each call
        second = self._waiting is not None and (x is self._waiting or x.data_ptr() == self._waiting.data_ptr() != 0)
        self._waiting = None if second else x
        return "uncond" if second else "cond"

    def rows(self, kind: CallKind, total: int) -> Rows:
        if kind != "both":
            return Rows.all_uncond(total) if kind == "uncond" else Rows.all_cond(total)
        kinds = self.host.layout.split("-")
        each = total // len(kinds)
        at = {kind: slice(place * each, (place + 1) * each) for place, kind in enumerate(kinds)}
        return Rows(at["pos"], at["neg"], total, at.get("between"))

    def trajectory(self) -> Trajectory:
        parts = self.host.parts(self.pipe, self.arguments) if self.host.parts else 1
        return replace(self._path(), parts=parts)

    def _path(self) -> Trajectory:
        """The path of the scheduler, along which each part of an answer is made."""
        scheduler = getattr(self.pipe, self.host.scheduler)
        if self.host.path == "trigonometric":
            return trigonometric(scheduler, getattr(self.pipe, "_num_timesteps", None))
        if self.host.path == "preconditioned":
            return preconditioned(scheduler)
        path = trajectory(scheduler, self._late(scheduler))
        path = path.as_flow() if self.host.path == "edm" else path
        share = self.pipe.config.get(self.host.boundary) if self.host.boundary else None
        if share is None:
            return path
        limit = share * scheduler.config.num_train_timesteps
        late = [index for index, t in zip(path.index, path.timesteps) if t < limit]
        return replace(path, takeover=late[0] if late and late[0] > 0 else None)

    def _late(self, scheduler: Any) -> int | None:
        """Evaluations left out at the start, where the pipeline or its call knows it and its scheduler does not."""
        told = getattr(self.pipe, "_num_timesteps", None) or self.host.steps(self.arguments)
        if self.host.strength is None or told is None or getattr(scheduler, "begin_index", None) is not None:
            return None
        return len(scheduler.timesteps) - told

    def given(self, name: str) -> dict[str, Any]:
        return self.conditions[name]

    def model(self, name: str) -> Callable[..., Any]:
        return self.models[name]

    def decode(self, x0: torch.Tensor, step: Step, part: Part | None = None, sparing: Sparing = PLENTY) -> torch.Tensor:
        return decode(self.pipe, x0, step, part, sparing)

    def score(self, name: str) -> Score:
        return self.scores[name]

    def install(self, network: Network, undo: Undo) -> None:
        """Where the host tags its calls, learn the tag."""
        if self.host.layout == "calls":
            original = network.module.cache_context
            patch(undo, network.module, "cache_context", self._tagging(original))

    def _tagging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def cache_context(name: str, **where: Any) -> Iterator[None]:
            before, self.tag = self.tag, name
            try:
                with original(name, **where):
                    yield
            finally:
                self.tag = before

        return cache_context
