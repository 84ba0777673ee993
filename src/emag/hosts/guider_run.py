"""The run behind a diffusers guider: what a guider is told of its network calls, one by one, put together."""

import functools
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core import Rule, weak_branches
from ..engine.arguments import Arguments
from ..engine.blocks import Blocks, blocks_of
from ..engine.lock import hold
from ..engine.plan import unfed
from ..engine.reading import read_network, unwrapped
from ..engine.run import Run
from ..engine.stats import Stats, stats
from ..engine.trajectory import Trajectory
from ..engine.undo import Undo, patch, undone
from ..engine.view import CallKind
from ..errors import BadValue
from ..families import Host
from .checks import check_pipeline_call, check_rules
from .decoding import check_looking
from .defaults import models_of, resolved
from .first_order import check_sampler
from .given import Given, scores_of
from .lookup import denoisers
from .pipeline_view import PipelineView


@dataclass(frozen=True)
class GuiderHost(Host):
    """A pipeline whose loop asks a guider. uncond: whether its run has unconditional rows."""

    uncond: bool = False

    def guides(self, arguments: dict[str, Any]) -> bool:
        return self.uncond


class GuiderView(PipelineView):
    """What a run asks of a guider's pipeline. now: the kind of the network call that comes next."""

    now: CallKind = "cond"
    alone = False  # each step of the guider says by itself how many calls it makes

    def kind(self, arguments: Arguments) -> CallKind:
        return self.now


class GuiderRun:
    """The runs of one guider, one at a time. latest: what the latest that went to its end did.

    A network carries something of ours only while it evaluates a call that `prepare` announced: an exception, wherever it
    comes from, leaves nothing behind that the next step would not clear.
    """

    def __init__(self, rules: tuple[Rule, ...]):
        self.rules = tuple(rule for rule in rules if not rule.neutral)
        self.given = Given()
        self.latest: Stats | None = None
        self._pipe: Callable[[], Any] = lambda: None
        self._undo = Undo()
        self._blocks: dict[torch.nn.Module, Blocks] = {}
        self._run: Run | None = None
        self._view: GuiderView | None = None
        self._step = -1

    @property
    def reads_null(self) -> bool:
        """True where a rule combines with an unconditional prediction that the network must evaluate."""
        return unfed(self.rules, Trajectory.even(28)) is not None

    def attach(self, pipe: Any, given: Given) -> None:
        """Serve `pipe`, whose scheduler tells the path of its runs."""
        self._pipe, self.given = weakref.ref(pipe), given
        self.forget()

    def forget(self) -> None:
        """End the run that is under way, if any."""
        self._undo.close()
        self._run = self._view = None

    def step(self, number: int) -> None:
        """The loop of the pipeline is at its step `number`; where that does not follow the latest, a new run begins."""
        self._undo.close()
        if not self.rules:
            return
        if number != self._step + 1:
            self.forget()
        self._step = number

    def prepare(self, denoiser: torch.nn.Module, kind: CallKind, uncond: bool) -> None:
        """The next call of `denoiser` is of `kind`. uncond: calls for unconditional rows are made as well."""
        self._undo.close()
        if not self.rules:
            return
        run = self._run or self._begin(uncond)
        blocks = self._blocks.get(unwrapped(denoiser))
        if blocks is None or self._view is None:
            raise BadValue("this guider is asked by another pipeline than the one it is attached to: give each its own")
        self._view.now = kind
        name = "forward" if denoiser._compiled_call_impl is None else "_compiled_call_impl"
        patch(self._undo, denoiser, name, self._once(run, getattr(denoiser, name), blocks))

    def release(self) -> None:
        """Take back what `prepare` announced."""
        self._undo.close()

    def combined(self) -> None:
        """The calls of a step are made. After the last one raises `NoEffect` where a branch changed nothing."""
        run = self._run
        if run is None or run.course.seen < run.course.count:
            return
        self.forget()
        run.finish()
        self.latest = stats(run, time.perf_counter() - self._start)

    @property
    def pipe(self) -> Any:
        """The pipeline. Raises `BadValue` where none is attached."""
        pipe = self._pipe()
        if pipe is None:
            raise BadValue("this guider does not know its pipeline, and so no noise levels: say guider.attach(pipe), which "
                           "also puts it in place")
        return pipe

    def _begin(self, uncond: bool) -> Run:
        """A run, everything about it checked."""
        pipe, self.latest, self._start = self.pipe, None, time.perf_counter()
        host = GuiderHost(type(pipe).__name__, "calls-untagged", scale=None, uncond=uncond, denoiser=_network_of(pipe),
                          second="transformer_2", boundary="boundary_ratio")
        networks = [read_network(denoiser) for denoiser in denoisers(pipe, host)]
        rules = tuple(rule for rule in resolved(self.rules, models_of(pipe), networks[0]) if not rule.neutral)
        check_rules(rules, networks)
        check_pipeline_call(rules, host, networks, {})
        check_looking(pipe, rules, networks)
        check_sampler(rules, getattr(pipe, "scheduler", None), {})
        conditions = self.given.encoded(rules, host, pipe, networks[0])
        view = GuiderView(host, pipe, {}, conditions, self.given.networks(rules, host, pipe, networks[0]),
                          scores_of(rules, self.given.scores))
        branches, made = weak_branches(rules), self._blocks
        self._blocks = {one.module: blocks_of(one, branches, made.get(one.module)) for one in networks}
        first, *others = self._blocks.values()
        self._run = Run(networks[0], rules, view, first, self.given.per_row, self.given.shared, self.given.masks,
                        others=tuple(others))
        self._view = view
        return self._run

    def _once(self, run: Run, forward: Callable[..., Any], blocks: Blocks) -> Callable[..., Any]:
        """What stands in for a network's `forward` in one call."""
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._undo.close()

            def evaluated(undo: Undo) -> Any:
                for module in self._blocks:
                    hold(module, type(self.pipe).__name__, undo)
                run.install(undo)
                return run.evaluate(forward, args, kwargs, blocks)

            return undone(evaluated)

        return call


def _network_of(pipe: Any) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"
