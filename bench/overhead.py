"""Cost of EMAG over plain CFG: seconds per image, block evaluations and peak memory, as ratios in one run.

python bench/overhead.py --blocks 12 --width 384 --tokens 1024 --steps 28 --layers 3-4

The network has random weights: they cost what trained ones cost. Lines are timed in turn, `--repeats` times, and
medians and their spread are shown. Peak memory is that of a fresh process per line (CPU), or of the allocator (CUDA).
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import typer
from rich.console import Console
from rich.table import Table

import emag
from emag.engine.passes import Passes
from emag.methods.common.values import layers as parse_layers
from emag.methods.emag.tracker import Tracker
from timed.shapes import SD3, Call, Shape, pipeline


@dataclass(frozen=True)
class Case:
    """What is timed: a shape of network and picture, how many at once, candidate blocks, and where it runs."""

    shape: Shape
    batch: int
    layers: tuple[int, ...]
    device: str
    dtype: torch.dtype
    steps: int

    @property
    def call(self) -> Call:
        """Arguments of its calls."""
        return Call(self.shape, self.batch, self.device, self.dtype)

    @property
    def title(self) -> str:
        """All of it in a line."""
        shape = self.shape
        return (f"{shape.depth} blocks, {shape.tokens} + {shape.text} tokens, {self.steps} steps, batch {self.batch}, "
                f"candidates {', '.join(map(str, self.layers))}, {self.dtype}")


def shaped(blocks: int, width: int, tokens: int, text: int) -> Shape:
    """SD3's network with other numbers of blocks, channels and tokens."""
    side = 2 * round(tokens**0.5)
    config = {**SD3.config, "sample_size": side, "num_layers": blocks, "num_attention_heads": width // 64,
              "joint_attention_dim": 256, "caption_projection_dim": width, "pooled_projection_dim": 256,
              "pos_embed_max_size": side // 2}
    return replace(SD3, name="overhead", config=config, size={"height": side, "width": side}, tokens=tokens, text=text)


def call(pipe: Any, case: Case, rules: tuple[emag.EMAG, ...]) -> int:
    """One batch of images under `rules`; block evaluations per image."""
    with emag.guide(pipe, *rules) as run:
        pipe(**case.call.arguments(case.steps))
    return run.latest.evaluations if run.latest else case.shape.depth * case.steps * 2


def lines(case: Case) -> dict[str, tuple[emag.EMAG, ...]]:
    """What is compared, by name."""
    def guidance(variant: str, **more: Any) -> tuple[emag.EMAG, ...]:
        return (emag.EMAG(1.5, variant=variant, layers=case.layers, **more),)

    return {"CFG": (), "EMAG query": guidance("query"), "EMAG map": guidance("map"),
            "published schedule, query": guidance("query", compat="sd3-official"),
            "published schedule, map": guidance("map", compat="sd3-official")}


def timed(pipe: Any, case: Case, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds per image and evaluations of every line, in turn, after a short warm-up each."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in lines(case)}
    for rules in lines(case).values():
        call(pipe, replace(case, steps=min(4, case.steps)), rules)
    for _ in range(repeats):
        for name, rules in lines(case).items():
            seconds, found[name]["evaluations"] = _clock(lambda rules=rules: call(pipe, case, rules), case.device)
            found[name]["seconds"].append(seconds / case.batch)
            print(f"{name}: {seconds / case.batch:.2f} s/image", file=sys.stderr)
    return found


def _clock(work: Callable[[], int], device: str) -> tuple[float, int]:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def peak(name: str, case: Case, arguments: list[str]) -> int:
    """Peak bytes of one line: of a fresh process on the CPU, of the allocator on CUDA."""
    if case.device != "cpu":
        pipe = pipeline(case.shape, case.device, case.dtype)
        torch.cuda.reset_peak_memory_stats()
        call(pipe, case, lines(case)[name])
        return torch.cuda.max_memory_allocated()
    command = [sys.executable, __file__, *arguments, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def breakdown(pipe: Any, case: Case) -> Table:
    """Where one image's seconds go: network passes by kind, and what the averages take inside them (CPU)."""
    table = Table("line", "clean passes", "of that averaging", "weak passes", "of that tapped attention", "rest", box=None)
    for name, rules in lines(case).items():
        if rules:
            with Stopwatch(Passes, "clean", "weak") as passes, Stopwatch(Tracker, "watch", "perturb") as state:
                total, _ = _clock(lambda rules=rules: call(pipe, case, rules), case.device)
            clean, weak = passes.seconds["clean"], passes.seconds["weak"]
            parts = (clean, state.seconds["watch"], weak, state.seconds["perturb"], total - clean - weak)
            table.add_row(name, *(f"{part:.2f} s" for part in parts))
    return table


class Stopwatch:
    """Seconds spent in some methods of a class while the `with` block lasts."""

    def __init__(self, owner: type, *names: str, clock: Callable[[], float] = time.perf_counter):
        self.owner, self.seconds, self.clock = owner, dict.fromkeys(names, 0.0), clock
        self.originals = {name: getattr(owner, name) for name in names}

    def __enter__(self) -> "Stopwatch":
        for name, original in self.originals.items():
            setattr(self.owner, name, self._timing(name, original))
        return self

    def __exit__(self, *_: Any) -> None:
        for name, original in self.originals.items():
            setattr(self.owner, name, original)

    def _timing(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += self.clock() - start

        return method


def process_peak(work: Callable[[], Any]) -> int:
    """Peak resident bytes of this process during `work` (Linux: its high-water mark, set back first)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        work()
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(found: dict[str, dict[str, Any]], case: Case) -> Table:
    """The figures as ratios to CFG."""
    table = Table("line", "s/image", "spread", "x CFG", "block evaluations", "x CFG", "peak memory over CFG", box=None,
                  title=case.title)
    base = found["CFG"]
    for name, line in found.items():
        seconds = statistics.median(line["seconds"])
        ratio = statistics.median(a / b for a, b in zip(line["seconds"], base["seconds"]))
        table.add_row(name, f"{seconds:.2f}", f"{min(line['seconds']):.2f}-{max(line['seconds']):.2f}", f"{ratio:.3f}",
                      str(line["evaluations"]), f"{line['evaluations'] / base['evaluations']:.3f}",
                      f"{(line['peak'] - base['peak']) / 2**20:+.0f} MiB")
    return table


def main(
    blocks: int = 12, width: int = 384, tokens: Annotated[int, typer.Option(help="Image tokens, a square.")] = 1024,
    text: Annotated[int, typer.Option(help="Text tokens.")] = 77, steps: int = 28, batch: int = 1, layers: str = "3-4",
    device: str = "cpu", dtype: str = "float32", repeats: int = 3,
    parts: Annotated[bool, typer.Option("--breakdown", help="Show where the seconds go instead (CPU).")] = False,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write the figures here.")] = None,
    only: Annotated[str | None, typer.Option(help="Run one line once and print its peak bytes.", hidden=True)] = None,
) -> None:
    """Time plain CFG, EMAG and the published schedule against each other."""
    shape = shaped(blocks, width, tokens, text)
    case = Case(shape, batch, parse_layers(layers), device, getattr(torch, dtype), steps)
    pipe = pipeline(shape, device, case.dtype)
    if only:
        print(process_peak(lambda: call(pipe, case, lines(case)[only])))
        return
    if parts:
        Console(width=150).print(breakdown(pipe, case))
        return
    found = timed(pipe, case, repeats)
    arguments = [f"--{k}={v}" for k, v in (("blocks", blocks), ("width", width), ("tokens", tokens), ("text", text),
                                           ("steps", min(steps, 8)), ("batch", batch), ("layers", layers), ("dtype", dtype))]
    for name, line in found.items():
        line["peak"] = peak(name, case, arguments)
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = cpu if device == "cpu" else torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    Console(width=150).print(report(found, case), f"{machine}, {versions}")
    if json_path:
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump({"case": case.title, "machine": machine, "lines": found}, file, indent=1)


if __name__ == "__main__":
    typer.run(main)
