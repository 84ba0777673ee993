"""`guide`: a diffusers pipeline whose calls run under a guidance."""

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core import Rule, Score, weak_branches
from ..engine.blocks import Blocks, blocks_of
from ..engine.lock import hold
from ..engine.network import Network
from ..engine.reading import read_network
from ..engine.run import Run
from ..engine.stats import Stats, stats
from ..engine.undo import Undo, patch, undone
from ..errors import BadValue, Busy, Unsupported
from ..records.baked import warn_of_baked
from ..samplers.base import Corrector
from .block import WithBlock, check_free
from .checks import check_pipeline_call, check_rules
from .decoding import check_looking
from .defaults import models_of, resolved
from .first_order import check_sampler
from .given import Condition, Given, scores_of
from .lookup import denoisers, host_of
from .own_guider import with_scale
from .pipeline_view import PipelineView
from .rescales import without_rescales


class Guided(WithBlock):
    """Handle of a `with emag.guide(...)`: the rules, and what the latest run did.

    latest: the same as `stats`, but None where there is nothing to tell.
    """

    def __init__(self, pipe: Any, rules: tuple[Rule, ...], given: Given):
        check_free(pipe)
        self.host = host_of(pipe)
        self.rules, self.given = rules, given
        self.on_step: Callable[[int, int], None] | None = None
        self.latest: Stats | None = None
        self.record: dict[str, Any] | None = None
        self._made: Any = None  # the images of the latest call
        self._blocks: dict[torch.nn.Module, Blocks] = {}
        networks = self._networks(pipe)
        self.resolved = self._resolve(pipe, networks[0])
        self.active = tuple(rule for rule in self.resolved if not rule.neutral)
        check_rules(self.active, networks)
        given.check_names(self.active)
        check_looking(pipe, self.active, networks)
        super().__init__(pipe)

    def __str__(self) -> str:
        if self.latest is not None:
            return str(self.latest)
        return ("emag run: none yet; call the pipeline inside the with block" if self.active else
                "emag run: no active rule; the pipeline runs as it is")

    @property
    def stats(self) -> Stats:
        """What the latest run did. Raises `BadValue` before one has come to its end, and where no rule is active."""
        if self.latest is None:
            raise BadValue("there is no finished run to tell of yet: call the pipeline inside the with block first"
                           if self.active else "no rule is active, so the pipeline ran as it is and nothing was counted")
        return self.latest

    def save(self, images: Any, folder: str) -> list[Any]:
        """Write images of the latest call, all or some or one, into `folder` as PNGs with their recipe; the paths written.

        Raises `BadValue` before a call, for what is no image, and where it cannot tell which of them one is.
        """
        from ..records.png import rows_of, save

        if self.record is None:
            raise BadValue("nothing to save yet: call the pipeline inside the with block first")
        given, rows = rows_of(images, self._made)
        return save(given, folder, self.record, rows)

    def foresee(self, pipe: Any, **arguments: Any) -> dict[str, Any]:
        """The record that a call of the pipeline with these arguments would leave. Raises `TypeError` for other names."""
        self._remember(pipe, _bind(type(pipe).__call__, pipe, (), arguments))
        return self.record or {}

    def call(self, original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One call of the pipeline under the guidance: a run."""
        arguments = _bind(original, pipe, args, kwargs)
        self._remember(pipe, arguments)
        arguments = with_scale(arguments, self.host, pipe)
        asked = self.host.as_cfg(arguments[self.host.scale]) if self.host.scale and self.host.guides(arguments) else None
        warn_of_baked(getattr(pipe, "emag_baked", None), asked, self.active)
        self.latest = self._made = None
        result = self._called(original, pipe, args, kwargs, arguments)
        self._made = getattr(result, "images", result[0] if isinstance(result, tuple) else None)
        return result

    def _called(self, original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any],
                arguments: dict[str, Any]) -> Any:
        if not self.active:
            return original(pipe, *args, **kwargs)
        networks = self._networks(pipe)
        check_pipeline_call(self.active, self.host, networks, arguments, _named(original, pipe, args, kwargs))
        check_sampler(self.active, getattr(pipe, self.host.scheduler, None), arguments)
        conditions = self.given.encoded(self.active, self.host, pipe, networks[0], arguments)
        others = self.given.networks(self.active, self.host, pipe, networks[0], arguments)
        view = PipelineView(self.host, pipe, arguments, conditions, others, scores_of(self.active, self.given.scores))

        def guided(undo: Undo) -> Any:
            for network in networks:
                hold(network.module, type(pipe).__name__, undo)
            run = self._run(networks, view)
            self._install(run, view, denoisers(pipe, self.host), undo)
            plain = without_rescales(original, pipe, self.host, self.active, args, kwargs)
            start = time.perf_counter()
            result = original(pipe, *plain[0], **plain[1])
            run.finish()
            self.latest = stats(run, time.perf_counter() - start)
            return result

        return undone(guided)

    def _run(self, networks: list[Network], view: PipelineView) -> Run:
        branches, made = weak_branches(self.active), self._blocks
        self._blocks = {one.module: blocks_of(one, branches, made.get(one.module)) for one in networks}
        first, *others = self._blocks.values()
        return Run(networks[0], self.active, view, first, self.given.per_row, self.given.shared, self.given.masks,
                   self.on_step, tuple(others))

    def _install(self, run: Run, view: PipelineView, modules: list[torch.nn.Module], undo: Undo) -> None:
        run.install(undo)
        for denoiser, blocks in zip(modules, (run.blocks, *run.others), strict=True):
            view.install(blocks.network, undo)
            name = "forward" if denoiser._compiled_call_impl is None else "_compiled_call_impl"
            patch(undo, denoiser, name, _evaluated(run, getattr(denoiser, name), blocks))
            patch(undo, denoiser, "__deepcopy__", _no_copy)

    def _networks(self, pipe: Any) -> list[Network]:
        return [read_network(denoiser) for denoiser in denoisers(pipe, self.host)]

    def _resolve(self, pipe: Any, network: Network) -> tuple[Rule, ...]:
        return resolved(self.rules, models_of(pipe), network)

    def _remember(self, pipe: Any, arguments: dict[str, Any]) -> None:
        from .record import record

        self.record = record(pipe, self.host, self.resolved, arguments, self.given.conditions,
                             (*self.given.handed, *filter(None, [self.host.guider])))


def guide(pipe: Any, *rules: Rule, conditions: Mapping[str, Condition] | None = None,
          masks: Mapping[str, torch.Tensor] | None = None,
          models: Mapping[str, Callable[..., Any]] | None = None, scores: Mapping[str, Score] | None = None,
          per_row: tuple[str, ...] = (), shared: tuple[str, ...] = ()) -> Guided:
    """Run the calls of a diffusers pipeline under `rules`, in order, while a `with` block lasts.

    If no rule combines (CFG, APG, ...), the pipeline's own guidance does, and its scale keeps working. Returns a handle,
    `with emag.guide(pipe, ...) as run`: `print(run)`, `run.stats`, `run.save(images, folder)`. Never entered, it guides
    nothing, and says so. Only this object is guided: copies of it made inside the block are plain. `conditions`: further
    conditions that rules name, each a prompt, one prompt per image, or the network's arguments as tensors, with
    "image_prompt" among them a picture for an IP-Adapter. `masks`: masks that rules name, [(frames,) height, width] or
    with a batch dimension before, of any resolution. `models`: further networks that rules name, called as the pipeline's
    own, or functions, which get its arguments by name. `scores`: functions of images [batch, 3, height, width] in [0, 1]
    that rules name, which give one number for each. `per_row`, `shared`: names of extra attention arguments that have one
    entry per batch row, or none. Raises `Unsupported`, `BadValue` and `Busy`, at once or at a call of the pipeline before
    its network is, `NotFinite` at a prediction that is not finite, and `NoEffect` after a run in which a weak branch
    changed nothing.
    """
    for rule in rules:
        if isinstance(rule, Corrector):
            raise Unsupported(f"{rule.name} evaluates the network between two steps of the scheduler, a moment that a "
                              "diffusers pipeline does not give: use emag.sample(emag.guided(denoiser, ...), x, "
                              "corrector)")
        if not isinstance(rule, Rule):
            raise BadValue(f"a guidance is made of rules such as emag.EMAG(1.5), got {rule!r}")
    return Guided(pipe, rules, Given(dict(conditions or {}), dict(masks or {}), dict(models or {}), dict(scores or {}),
                               per_row, shared))


def _evaluated(run: Run, forward: Callable[..., Any], blocks: Blocks) -> Callable[..., Any]:
    """What stands in for a network's `forward` in a run."""
    return lambda *args, **kwargs: run.evaluate(forward, args, kwargs, blocks)


def _no_copy(memo: dict[int, Any]) -> Any:
    """What stands in for the copying of a network in a run: the copy would evaluate through the taps of the original."""
    raise Busy("this network serves a guided run, and a copy of it would be tied to that run: copy it before the run, or "
               "after it")


def _named(original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any]) -> set[str]:
    """Names of the arguments that a call gives, those at their places included."""
    return set(inspect.signature(original).bind(pipe, *args, **kwargs).arguments)


def _bind(original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(original).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}
