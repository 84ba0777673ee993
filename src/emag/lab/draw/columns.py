"""Columns of a comparison: one guidance each, in short form, run over the same prompts and seeds."""

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ...core import Rule, check_finite
from ...engine.reading import read_network
from ...engine.stats import Stats
from ...engine.trajectory import trajectory
from ...engine.undo import Undo, patch, undone
from ...errors import BadValue
from ...hosts import own_loop
from ...hosts.function import Function
from ...hosts.lookup import denoisers, host_of
from ...hosts.own_guider import with_scale
from ...methods import LISTED, METHODS
from ...methods.combining.cfg import CFG
from ...methods.common.quotes import words
from ...near import choices
from ...records import recipe
from ...records.ranges import warn_of_clipped, warn_of_scales
from ...samplers import CORRECTORS, SOLVERS, Corrector, Solver
from ...samplers.loop import Progress
from .sampling import DrawSettings, Job, arguments, batches, draw_images

log = logging.getLogger("emag")


@dataclass(frozen=True)
class Column:
    """One guidance under a label. `scale` overrides the pipeline's own guidance scale, `steps` the steps of the others.

    correctors, solver: where there are any, our own sampling loop draws the column in the place of the pipeline.
    """

    label: str
    rules: tuple[Rule, ...] = ()
    scale: float | None = None
    correctors: tuple[Corrector, ...] = ()
    solver: Solver | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)
        if self.steps is not None and self.steps < 1:
            raise BadValue(f"steps must be at least 1, got {self.steps}")

    @classmethod
    def parse(cls, text: str) -> "Column":
        """From "emag=1.5 apg=4" or "cfg=2 pcg"; "scale=2.5" is the pipeline's own scale, "none" is 1; "steps=40" more
        steps than the others; "label: ..." first."""
        label, given, rest = text.partition(":") if _labelled(text) else ("", "", text)
        found = words(rest if given else text)
        if not found:
            raise BadValue(f"the column {text!r} is empty; write e.g. 'emag=1.5', 'none', or 'label: scale=2 emag=1.5'")
        scale = next((1.0 if word == "none" else _number(word) for word in found
                      if word == "none" or word.startswith("scale=")), None)
        steps = next((_whole(word) for word in found if word.startswith("steps=")), None)
        parts = [read_part(word) for word in found
                 if word not in ("none", "host") and not word.startswith(("scale=", "steps="))]
        return cls.of(label.strip() if given else text, parts, scale, steps)

    @classmethod
    def of(cls, label: str, parts: Sequence[Rule | Corrector | Solver], scale: float | None = None,
           steps: int | None = None) -> "Column":
        """From rules, correctors and at most one solver, mixed."""
        solvers = [part for part in parts if isinstance(part, Solver)]
        if len(solvers) > 1:
            raise BadValue(f"{label!r} names {len(solvers)} solvers; keep one")
        return cls(label, tuple(part for part in parts if isinstance(part, Rule)), scale,
                   tuple(part for part in parts if isinstance(part, Corrector)), next(iter(solvers), None), steps)

    @property
    def own_loop(self) -> bool:
        """True where our own loop draws the column."""
        return bool(self.correctors or self.solver)

    @property
    def joint(self) -> bool:
        """True where all images of a prompt are drawn together."""
        return any(corrector.joint for corrector in self.correctors)


@dataclass(frozen=True)
class Plain:
    """The pipeline's own call at the same settings, which a column need not have made.

    evaluations: block evaluations per image. guides: whether its CFG is on. scale: its guidance scale, where it has one.
    """

    evaluations: int
    guides: bool
    scale: float | None
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What one column made: an image per job, a record and row for each, and the statistics of its calls.

    evaluations: block evaluations per image. seconds: spent in all calls. plain: what the pipeline alone would do.
    """

    column: Column
    images: tuple[Image.Image, ...]
    records: tuple[dict[str, Any], ...]
    stats: tuple[Stats, ...]
    evaluations: int
    seconds: float
    plain: Plain | None = None


def run(pipe: Any, column: Column, work: Sequence[Job], settings: DrawSettings, batch_size: int,
        progress: Progress | None = None) -> Outcome:
    """Make the images of one column. batch_size: most rows of one network call; what is drawn together is not cut by it."""
    own = replace(settings, scale=settings.scale if column.scale is None else column.scale,
                  steps=column.steps or settings.steps)
    groups = [work] if column.joint else batches(work, batch_size)
    parts = [_call(pipe, column, group, own, batch_size, progress) for group in groups]
    return Outcome(column, tuple(image for part in parts for image in part.images),
                   tuple(record for part in parts for record in part.records),
                   tuple(stats for part in parts for stats in part.stats), parts[0].evaluations,
                   sum(part.seconds for part in parts), _plain(pipe, work, settings))


class _Reached(Exception):
    """The network would be evaluated now."""


def rehearse(pipe: Any, column: Column, job: Job, settings: DrawSettings) -> None:
    """Draw one image of a column as far as its first evaluation. Raises what `run` would raise before it."""
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _Reached

    def stopped(undo: Undo) -> None:
        for network in denoisers(pipe, host_of(pipe)):
            patch(undo, network, "forward" if network._compiled_call_impl is None else "_compiled_call_impl", stop)
        with suppress(_Reached):
            run(pipe, column, [job], settings, 1)

    undone(stopped)


def _call(pipe: Any, column: Column, group: Sequence[Job], settings: DrawSettings, batch_size: int,
          progress: Progress | None) -> Outcome:
    start = time.perf_counter()
    if column.own_loop:
        return _looped(pipe, column, group, settings, batch_size, progress)
    made, guided = draw_images(pipe, arguments(pipe, group, settings), [job.seed for job in group], column.rules, progress)
    record = guided.record or {}
    stats = (guided.latest,) if guided.latest else ()
    evaluations = stats[0].evaluations if stats else _host_evaluations(pipe, record["call"])
    return Outcome(column, tuple(made), tuple({**record, "row": row} for row in range(len(made))), stats, evaluations,
                   time.perf_counter() - start)


def _looped(pipe: Any, column: Column, group: Sequence[Job], settings: DrawSettings, batch_size: int,
            progress: Progress | None) -> Outcome:
    start = time.perf_counter()
    if settings.more:
        raise BadValue(f"our own loop takes no pipeline arguments: leave out {', '.join(settings.more)}")
    rules = column.rules
    if settings.scale not in (None, 1) and all(rule.kind != "combining" for rule in rules):
        if column.solver is not None and column.solver.guides:
            log.warning("emag: %s guides by its own scale; the scale of %s is not used", column.solver.name, settings.scale)
        else:
            rules = (*rules, CFG(settings.scale))
    loop = own_loop.Loop(rules, column.correctors, column.solver, settings.steps, settings.height, settings.width,
                         rows=batch_size if column.joint else None)
    texts = [job.prompt for job in group], [job.negative for job in group], [job.seed for job in group]
    warn_of_scales(column.correctors)
    made, model = own_loop.run(pipe, loop, *texts, progress)
    warn_of_clipped(made)
    record = {"model": getattr(pipe, "emag_source", None), "rules": [], "call": {"prompt": texts[0]}, "seeds": texts[2],
              "unrecorded": [f"the sampler of {column.label}"]}
    return Outcome(column, tuple(made), tuple({**record, "row": row} for row in range(len(made))), (),
                   _evaluations(model, read_network(pipe.transformer).depth), time.perf_counter() - start)


def _evaluations(model: Function, depth: int) -> int:
    """Block evaluations per image of a run of our own loop: those inside the network, where a rule looks into it."""
    inside = model.block_evaluations
    return inside + model.beside * depth if inside else model.evaluations * depth


def _host_evaluations(pipe: Any, call: Mapping[str, Any]) -> int:
    """Block evaluations per image of the pipeline's latest call on its own."""
    depth = read_network(denoisers(pipe, host_of(pipe))[0]).depth
    return depth * len(trajectory(pipe.scheduler).timesteps) * (2 if _guides(pipe, call) else 1)


def _guides(pipe: Any, call: Mapping[str, Any]) -> bool:
    """Whether the pipeline's own CFG is on in a call."""
    host = host_of(pipe)
    return host.guides(with_scale({host.scale or "": 0, **call}, host, pipe))


def _plain(pipe: Any, work: Sequence[Job], settings: DrawSettings) -> Plain:
    """The pipeline's own call, counted from the steps of the latest one."""
    known = inspect.signature(type(pipe).__call__).parameters
    call = {name: one.default for name, one in known.items() if one.default is not one.empty}
    call |= arguments(pipe, work[:1], settings)
    scale = with_scale(call, host_of(pipe), pipe).get(host_of(pipe).scale or "")
    return Plain(_host_evaluations(pipe, call), _guides(pipe, call), scale, len(trajectory(pipe.scheduler).timesteps))


def _labelled(text: str) -> bool:
    label, given, _ = text.partition(":")
    return bool(given) and "=" not in label


def read_part(word: str) -> Rule | Corrector | Solver:
    """A rule, a corrector or a solver from its short form, "pcg=2". Raises `BadValue`."""
    name = word.partition("=")[0].partition(",")[0].strip()
    for registry in (CORRECTORS, SOLVERS):
        if name in registry:
            return recipe.parse(word, registry)
    if name not in METHODS:
        raise BadValue(f"there is no method {name!r}; {choices(name, (*METHODS, *CORRECTORS, *SOLVERS), listed=LISTED)}")
    return recipe.parse(word)


def _number(word: str) -> float:
    try:
        return float(word.partition("=")[2])
    except ValueError:
        raise BadValue(f"cannot read {word!r}; write scale=2.5") from None


def _whole(word: str) -> int:
    try:
        return int(word.partition("=")[2])
    except ValueError:
        raise BadValue(f"cannot read {word!r}; write steps=40") from None
