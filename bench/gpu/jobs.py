"""The jobs of one call of the GPU suite: their order, what is missing, errors that are kept, and the time that is left."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu import measure
from gpu.lines import FORMATS, MAP, QUERY, Line, lines
from gpu.store import Store
from timed.shapes import Shape

PARTS = ("speed", "memory", "sync", "profile", "storage")
SHORT = 8  # steps of a run that is checked or profiled: enough for all phases of the published windows


class Spent(Exception):
    """The time that was given is used up."""


class Broken(Exception):
    """The device is of no use any more in this process."""


@dataclass
class Suite:
    """One call of the suite."""

    store: Store
    shapes: tuple[Shape, ...]
    parts: tuple[str, ...]
    batches: tuple[int, ...]
    modes: tuple[bool, ...]  # compiled or not
    steps: int | None
    repeats: int
    deadline: float
    device: str
    dtype: torch.dtype
    backend: str
    bench: measure.Bench | None = None
    warm: set[str] = field(default_factory=set)

    def jobs(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """What there is to do, the most important first: batch 1 eager, what explains it, then compiled, then batches."""
        for job in (self._timing(1, False), self._job("sync", self._sync), self._job("profile", self._profile),
                    self._timing(1, True)):
            yield from job
        for batch in (batch for batch in self.batches if batch != 1):
            yield from self._timing(batch, False)
            yield from self._timing(batch, True)

    def _timing(self, batch: int, compiled: bool) -> Iterator[tuple[str, Callable[[], None]]]:
        wanted = batch in self.batches and compiled in self.modes and {"speed", "memory", "storage"} & {*self.parts}
        for shape in self.shapes:
            if wanted and batch in shape.batches:
                label = f"{shape.name}/{'compiled' if compiled else 'eager'}/{batch}"
                yield label, lambda shape=shape, label=label: self._lines(shape, batch, compiled, label)

    def _job(self, part: str, work: Callable[[Shape], None]) -> Iterator[tuple[str, Callable[[], None]]]:
        for shape in self.shapes if part in self.parts else ():
            yield f"{part} of {shape.name}", lambda shape=shape: work(shape)

    def run(self) -> None:
        """Do what is missing until the time is used up; the rest is named in the file."""
        reason = ""
        for label, work in self.jobs():
            try:
                reason or work()
            except (Spent, Broken) as end:
                reason = str(end)
            if reason:
                self.store.data["left"].append(f"{label}: {reason}")
        self.store.save()

    def _lines(self, shape: Shape, batch: int, compiled: bool, group: str) -> None:
        """Timed runs of one group of lines, in turn; the plain line again where another call had measured it."""
        first = batch == 1 and not compiled
        asked = lines(shape, self.parts, wide=not first)
        most = self.repeats if "speed" in self.parts else 1
        if {"storage"} & {*self.parts} and shape.storage and first:
            self._try("storage", shape.name, lambda: self._traffic(shape))
        todo = {name: most - len(self.store.repeats(f"{group}/{name}")) for name in asked
                if not self.store.failed("lines", f"{group}/{name}")}
        if any(count > 0 for count in todo.values()) and shape.plain in todo:
            todo[shape.plain] = max(1, todo[shape.plain])
        for turn in range(most):
            for name in (name for name, count in todo.items() if count > turn):
                self._once(shape, asked[name], batch, compiled, f"{group}/{name}")

    def _once(self, shape: Shape, line: Line, batch: int, compiled: bool, key: str) -> None:
        """One timed run of a line, after a warm-up where it is this call's first."""
        if self.store.failed("lines", key):
            return
        if line.refused:
            return self.store.put("lines", key, {"failed": f"no such way: {line.refused}"})
        with self._recording("lines", key):
            bench, steps, common = self._bench(shape, compiled), self.steps or shape.steps, {}
            if key not in self.warm:
                common = measure.warm_up(bench, line, batch, steps)
                self.warm.add(key)
            repeat, counts = measure.timed(bench, line, batch, steps)
            self.store.repeat(key, repeat, {"steps": steps, **common, **counts})
            print(f"{key}: {repeat['seconds']:.3f} s/image", file=sys.stderr)

    def _sync(self, shape: Shape) -> None:
        for name, line in lines(shape, ("speed", "storage")).items():
            if not line.refused:
                self._try("sync", f"{shape.name}/{name}", lambda line=line: self._synced(shape, line))

    def _synced(self, shape: Shape, line: Line) -> dict[str, Any]:
        found = measure.synchronises(self._bench(shape), line, self._short(shape))
        return found if self.device != "cpu" else {"skipped": "a CPU does not synchronise"}

    def _profile(self, shape: Shape) -> None:
        for name in (shape.plain, QUERY, MAP):
            line = lines(shape, ("speed",))[name]
            self._try("profile", f"{shape.name}/{name}",
                      lambda line=line: measure.kernels(self._bench(shape), line, self._short(shape)))

    def _traffic(self, shape: Shape) -> dict[str, Any]:
        return measure.traffic(self._bench(shape), self.steps or shape.steps, FORMATS)

    def _try(self, kind: str, key: str, work: Callable[[], dict[str, Any]]) -> None:
        """Measure and keep one result, if there is none yet."""
        if not self.store.has(kind, key):
            with self._recording(kind, key):
                self.store.put(kind, key, work())
                print(f"{kind}: {key}", file=sys.stderr)

    def _short(self, shape: Shape) -> int:
        return min(SHORT, self.steps or shape.steps)

    def _bench(self, shape: Shape, compiled: bool = False) -> measure.Bench:
        """The pipeline of a shape; the one before it is let go."""
        held = self.bench
        if held is None or (held.shape, held.compiled) != (shape, compiled):
            del held
            self.bench = None
            self.warm.clear()
            emptied(self.device)
            self.bench = measure.Bench(shape, self.device, self.dtype, compiled, self.backend)
        assert self.bench is not None
        return self.bench

    def _recording(self, kind: str, key: str) -> "Recording":
        if time.monotonic() > self.deadline:
            raise Spent("the time was used up")
        return Recording(self, kind, key)


@dataclass
class Recording:
    """A block whose errors are kept as a result; after one of the device itself nothing more can be measured."""

    suite: Suite
    kind: str
    key: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        found = measure.failure(error)
        print(f"{self.kind}: {self.key}: {found['failed']}", file=sys.stderr)
        self.suite.store.put(self.kind, self.key, found)
        error.__traceback__ = None  # it holds tensors
        if "CUDA error" in str(error):
            raise Broken("an error of the device; call again") from None
        emptied(self.suite.device)
        return True


def emptied(device: str) -> None:
    """Give memory back."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
