"""`guide`: a diffusers pipeline whose calls run under a guidance."""

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..backbones.read import Network, read
from ..defaults import models_of, resolved
from ..engine.blocks import Blocks, blocks_of
from ..engine.lock import hold
from ..engine.plan import weak_branches
from ..engine.run import Run
from ..engine.stats import Stats, stats
from ..engine.undo import patch
from ..errors import BadValue, Busy, Unsupported
from ..guidance import Rule
from ..samplers.base import Corrector
from .checks import check, check_order
from .given import Condition, Given
from .own_guider import with_scale
from .pipeline_view import PipelineView
from .rescales import without_rescales
from .table import denoisers, lookup


class Guided:
    """Handle of a `with emag.guide(...)`: the rules, and what the latest run did."""

    def __init__(self, pipe: Any, rules: tuple[Rule, ...], given: Given):
        self.host = lookup(pipe)
        self.rules, self.given = rules, given
        self.on_step: Callable[[int, int], None] | None = None
        self.stats: Stats | None = None
        self.record: dict[str, Any] | None = None
        self._blocks: dict[torch.nn.Module, Blocks] = {}
        self.resolved = self._resolve(pipe, self._networks(pipe)[0])
        self.active = tuple(rule for rule in self.resolved if not rule.neutral)
        check_order(self.active)

    def __str__(self) -> str:
        if self.stats is not None:
            return str(self.stats)
        return ("emag run: none yet; call the pipeline inside the with block" if self.active else
                "emag run: no active rule; the pipeline runs as it is")

    def save(self, images: Any, folder: str) -> list[Any]:
        """Write `images` of the latest call into `folder` as PNGs that carry their recipe; the paths written."""
        from ..images import save

        if self.record is None:
            raise BadValue("nothing to save yet: call the pipeline inside the with block first")
        return save(images, folder, self.record)

    def call(self, original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One call of the pipeline under the guidance: a run."""
        arguments = _bind(original, pipe, args, kwargs)
        self._remember(pipe, arguments)
        arguments = with_scale(arguments, self.host, pipe)
        self.stats = None
        if not self.active:
            return original(pipe, *args, **kwargs)
        networks = self._networks(pipe)
        check(self.active, self.host, networks, arguments)
        conditions = self.given.encoded(self.active, self.host, pipe, networks[0], arguments)
        view = PipelineView(self.host, pipe, arguments, conditions, self.given.networks(self.active, pipe, networks[0]))
        with ExitStack() as undo:
            for network in networks:
                undo.enter_context(hold(network.module, type(pipe).__name__))
            branches, made = weak_branches(self.active), self._blocks
            self._blocks = {one.module: blocks_of(one, branches, made.get(one.module)) for one in networks}
            first, *others = self._blocks.values()
            run = Run(networks[0], self.active, view, first, self.given.per_row, self.given.shared, self.given.masks,
                      self.on_step, tuple(others))
            self._install(run, view, denoisers(pipe, self.host), undo)
            args, kwargs = without_rescales(original, pipe, self.host, self.active, args, kwargs)
            start = time.perf_counter()
            result = original(pipe, *args, **kwargs)
            run.finish()
            self.stats = stats(run, time.perf_counter() - start)
        return result

    def _install(self, run: Run, view: PipelineView, modules: list[torch.nn.Module], undo: ExitStack) -> None:
        run.install(undo)
        for denoiser, blocks in zip(modules, (run.blocks, *run.others), strict=True):
            view.install(blocks.network, undo)
            name = "forward" if denoiser._compiled_call_impl is None else "_compiled_call_impl"
            patch(undo, denoiser, name, _evaluated(run, getattr(denoiser, name), blocks))

    def _networks(self, pipe: Any) -> list[Network]:
        return [read(denoiser) for denoiser in denoisers(pipe, self.host)]

    def _resolve(self, pipe: Any, network: Network) -> tuple[Rule, ...]:
        return resolved(self.rules, models_of(pipe), network)

    def _remember(self, pipe: Any, arguments: dict[str, Any]) -> None:
        from ..record import record

        self.record = record(pipe, self.host, self.resolved, arguments, self.given.conditions,
                             (*self.given.handed, *filter(None, [self.host.guider])))


@contextmanager
def guide(pipe: Any, *rules: Rule, conditions: Mapping[str, Condition] | None = None,
          masks: Mapping[str, torch.Tensor] | None = None,
          models: Mapping[str, Callable[..., Any]] | None = None, per_row: tuple[str, ...] = (),
          shared: tuple[str, ...] = ()) -> Iterator[Guided]:
    """Run the calls of a diffusers pipeline under `rules`, in order, while the `with` block lasts.

    If no rule combines (CFG, APG, ...), the pipeline's own guidance does, and its scale keeps working. Yields a handle:
    `print(run)`, `run.stats`, `run.save(images, folder)`. `conditions`: further conditions that rules name, each a prompt,
    one prompt per image, or the network's arguments as tensors. `masks`: masks that rules name, [(frames,) height, width]
    or with a batch dimension before, of any resolution. `models`: further networks that rules name, called as the
    pipeline's own, or functions, which get its arguments by name. `per_row`, `shared`: names of extra attention arguments
    that have one entry per batch row, or none. Raises `Unsupported`, `BadValue`, `Busy`, `NotFinite` at a prediction that is
    not finite, and `NoEffect` after a run in which a weak branch changed nothing.
    """
    cls = type(pipe)
    if getattr(cls, "_emag_guided", False):
        raise Busy(f"this {cls.__name__} is already inside an emag.guide block; put all rules into one")
    for rule in rules:
        if isinstance(rule, Corrector):
            raise Unsupported(f"{rule.name} evaluates the network between two steps of the scheduler, a moment that a "
                              "diffusers pipeline does not give: use emag.samplers.sample(emag.guided(denoiser, ...), x, "
                              "corrector)")
        if not isinstance(rule, Rule):
            raise BadValue(f"a guidance is made of rules such as emag.EMAG(1.5), got {rule!r}")
    guided = Guided(pipe, rules, Given(dict(conditions or {}), dict(masks or {}), dict(models or {}), per_row, shared))
    pipe.__class__ = _guided_class(cls, guided)
    try:
        yield guided
    finally:
        pipe.__class__ = cls


def _evaluated(run: Run, forward: Callable[..., Any], blocks: Blocks) -> Callable[..., Any]:
    """What stands in for a network's `forward` in a run."""
    return lambda *args, **kwargs: run.evaluate(forward, args, kwargs, blocks)


def _guided_class(cls: type, guided: Guided) -> type:
    """A subclass of the same name whose calls are runs."""
    original = cls.__call__

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return guided.call(original, self, args, kwargs)

    body = {"__call__": __call__, "_emag_guided": True, "__module__": cls.__module__, "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (cls,), body)


def _bind(original: Callable[..., Any], pipe: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(original).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}
