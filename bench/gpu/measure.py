"""What the GPU suite measures of one line: time and peak memory, synchronisation, kernels; and the traffic of maps."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import emag
from emag.engine.reading import read_network
from emag.engine.trajectory import Trajectory
from emag.hosts.defaults import resolved
from emag.methods.emag import stored_map
from gpu.lines import Line, Ran, evaluations, run
from timed.shapes import Call, Shape, pipeline

WARM_UP, GRAPHS, FRAMES, KERNELS = 6, 64, 3, 15
COPY = {"cuda": 2**32, "cpu": 2**24}  # bytes


@dataclass
class Bench:
    """A pipeline on a device, eager or with its blocks compiled, and its calls by batch size."""

    shape: Shape
    device: str
    dtype: torch.dtype
    compiled: bool = False
    backend: str = "inductor"
    calls: dict[int, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pipe = pipeline(self.shape, self.device, self.dtype)
        if self.compiled:
            compile_blocks(self.pipe, self.backend)

    def run(self, line: Line, batch: int, steps: int) -> Ran:
        """One call under a line."""
        if batch not in self.calls:
            self.calls[batch] = Call(self.shape, batch, self.device, self.dtype)
        return run(self.pipe, line, self.calls[batch].arguments(steps))


def compile_blocks(pipe: Any, backend: str) -> None:
    """torch.compile each block by itself; graphs are shared by blocks alike, and there is one for each batch size."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = GRAPHS
    for block in read_network(pipe.transformer).blocks:
        block.module.compile(fullgraph=False, dynamic=False, backend=backend)


def clock(device: str, work: Callable[[], Ran]) -> tuple[float, Ran]:
    """Seconds that `work` takes, by CUDA events on a GPU."""
    if device == "cpu":
        start = time.perf_counter()
        return (lambda made: (time.perf_counter() - start, made))(work())
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    made = work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000, made


def warm_up(bench: Bench, line: Line, batch: int, steps: int) -> dict[str, Any]:
    """A run of few steps; its seconds, and the graphs compiled in it."""
    before = graphs()
    seconds, _ = clock(bench.device, lambda: bench.run(line, batch, min(WARM_UP, steps)))
    return {"warm_up": seconds, **({"graphs": graphs() - before} if bench.compiled else {})}


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def timed(bench: Bench, line: Line, batch: int, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run: its repeat (seconds per image, peak bytes, None on a CPU), and what does not differ between repeats."""
    if bench.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds, ran = clock(bench.device, lambda: bench.run(line, batch, steps))
    peak = None if bench.device == "cpu" else torch.cuda.max_memory_allocated()
    repeat = {"seconds": seconds / batch, "peak": peak}
    return repeat, {"finite": bool(torch.isfinite(ran.made).all()), **_counts(bench, line, steps, ran.stats)}


def _counts(bench: Bench, line: Line, steps: int, stats: Any) -> dict[str, Any]:
    if stats is None:
        return {"evaluations": evaluations(bench.shape, bench.pipe, line, steps)}
    return {"evaluations": stats.evaluations, "planned": stats.planned, "clean": stats.clean, "picks": stats.picks,
            "effect": stats.effect}


def synchronises(bench: Bench, line: Line, steps: int) -> dict[str, Any]:
    """Whether a run waits for the device inside its evaluations of the network; the first place where it does."""
    bench.run(line, 1, steps)
    try:
        with strict(bench):
            bench.run(line, 1, steps)
        return {"synchronises": None}
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return {"synchronises": first_line(error), "at": places(error)}


@contextmanager
def strict(bench: Bench) -> Iterator[None]:
    """Calls of the network, with all that emag does in them, may not wait for the device; the pipeline around them may."""
    kind = type(bench.pipe.transformer)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        debug(bench.device, "error")
        try:
            return torch.nn.Module.__call__(self, *args, **kwargs)
        finally:
            debug(bench.device, "default")

    kind.__call__ = call
    try:
        yield
    finally:
        del kind.__call__


def debug(device: str, mode: str) -> None:
    if device != "cpu":
        torch.cuda.set_sync_debug_mode(mode)


def kernels(bench: Bench, line: Line, steps: int) -> dict[str, Any]:
    """Milliseconds per image of every kernel (on a CPU: operation) in a run, and how long the device was busy in all."""
    cuda = bench.device != "cpu"
    bench.run(line, 1, steps)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        seconds, _ = clock(bench.device, lambda: bench.run(line, 1, steps))
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        if (event.device_type == DeviceType.CUDA) == cuda:
            found[event.key] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000
    return {"steps": steps, "wall": seconds * 1000, "busy": sum(found.values()),
            "kernels": {name: spent for name, spent in found.most_common() if spent > 0}}


def added(line: dict[str, Any], plain: dict[str, Any]) -> list[tuple[str, float]]:
    """Kernels by the milliseconds that a line adds to the plain one."""
    names = {*line["kernels"], *plain["kernels"]}
    more = [(name, line["kernels"].get(name, 0.0) - plain["kernels"].get(name, 0.0)) for name in names]
    return sorted(more, key=lambda pair: -abs(pair[1]))[:KERNELS]


def traffic(bench: Bench, steps: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Bytes of map that one image must move by format, at best: a candidate's is read and written at each watched step,
    the picked one's read at each applied step."""
    found, shape = {}, bench.shape
    heads, width = (shape.config[name] for name in ("num_attention_heads", "attention_head_dim"))
    for kind in kinds:
        rule: Any = resolved((emag.EMAG(variant="map", maps=kind),), (), read_network(bench.pipe.transformer))[0]
        whole = rule.perturbation.state_bytes(1, shape.tokens, shape.text, heads, width)
        phases = rule.window.phases(Trajectory.even(steps).sigmas)
        watched, applied = sum(phase != "off" for phase in phases), phases.count("apply")
        found[kind] = {"map": whole // len(rule.layers), "candidates": len(rule.layers), "watched": watched,
                       "applied": applied, "bytes": 2 * watched * whole + applied * whole // len(rule.layers)}
    auto = stored_map.format_of("auto", "float32", torch.device(bench.device))
    return {"auto": auto, "copy": bandwidth(bench.device), "formats": found}


def bandwidth(device: str) -> float:
    """Bytes per second, read and written ones, of a large copy on the device; the best of five."""
    source = torch.empty(COPY[device], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    best = min(clock(device, lambda: Ran(target.copy_(source)))[0] for _ in range(5))
    return 2 * COPY[device] / best


def failure(error: Exception) -> dict[str, Any]:
    """What is recorded of a line that could not be measured."""
    return {"failed": f"{type(error).__name__}: {first_line(error)}", "at": places(error)}


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def places(error: Exception) -> list[str]:
    """The innermost lines of code of an error, those of emag and diffusers first."""
    frames = traceback.extract_tb(error.__traceback__)
    known = [f for f in frames if "/emag/" in f.filename or "/diffusers/" in f.filename] or list(frames)
    return [f"{'/'.join(f.filename.split('/')[-3:])}:{f.lineno} {f.name}" for f in known[-FRAMES:]]
