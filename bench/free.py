"""What methods without evaluations of their own cost in seconds: each beside CFG, as ratios in one run.

python bench/free.py --blocks 12 --width 384 --tokens 1024 --steps 8

The network has random weights. Two ratios: of whole calls, each method's beside CFG's, turn by turn; and of the seconds
that rules take outside the network's passes, which other work on the machine moves less. On a CPU seconds are those of
the process.
"""

import logging
import statistics
import time
from typing import Annotated, Any

import torch
import typer

import emag
from emag.core import Rule
from emag.engine.passes import Passes
from emag.lab.draw import showcase
from emag.methods import METHODS
from overhead import Call, Case, Stopwatch, shaped
from timed.shapes import pipeline

LIMIT = 1.01
"""The most that a method without evaluations may take, times CFG."""
TEXTS = ("modulation", "perp-neg", "compose", "cs-apg", "cfg++")
"""Those that need another text, which this network has no encoder for, or another kind of step."""


def guidances() -> dict[str, tuple[Rule, ...]]:
    """Every rule whose cost is "none" in so many words, at the setting of the showcase, beside CFG where none combines."""
    found: dict[str, tuple[Rule, ...]] = {"cfg": (emag.CFG(4.0),)}
    for column in showcase.columns(("condition", "null", "combining", "after", "schedule")):
        costly = column.label in METHODS and METHODS[column.label].cost != "none"
        if not (costly or column.own_loop or column.label in TEXTS):
            own = any(rule.kind == "combining" for rule in column.rules)
            found[column.label] = column.rules if own else (*column.rules, emag.CFG(4.0))
    return found


def clock(device: str) -> float:
    """Seconds so far: of this process on a CPU, where others may work too."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def once(pipe: Any, rules: tuple[Rule, ...], call: dict[str, Any], device: str) -> tuple[float, float]:
    """Seconds of one call, and of those outside the network's passes."""
    with emag.guide(pipe, *rules), Stopwatch(Passes, "clean", "weak", clock=lambda: clock(device)) as passes:
        start = clock(device)
        pipe(**call)
        whole = clock(device) - start
    return whole, whole - sum(passes.seconds.values())


def main(
    blocks: int = 12, width: int = 384, tokens: Annotated[int, typer.Option(help="Image tokens, a square.")] = 1024,
    text: int = 77, steps: int = 8, device: str = "cpu", dtype: str = "float32", repeats: int = 2,
    only: Annotated[str, typer.Option(help="Methods, joined by commas; all without.")] = "",
) -> None:
    """Time every method that costs no evaluation against CFG."""
    logging.getLogger("emag").setLevel(logging.WARNING + 1)  # which CFG combines is no news here
    shape = shaped(blocks, width, tokens, text)
    case = Case(shape, 1, (blocks // 2,), device, getattr(torch, dtype), steps)
    pipe, call = pipeline(shape, device, case.dtype), Call(shape, 1, device, case.dtype).arguments(steps)
    chosen = {name: rules for name, rules in guidances().items() if not only or name in ("cfg", *only.split(","))}
    once(pipe, chosen["cfg"], call, device)
    print(f"{case.title}; x CFG: whole calls, and outside the passes")
    for name, rules in chosen.items():
        pairs = [(once(pipe, chosen["cfg"], call, device), once(pipe, rules, call, device)) for _ in range(repeats)]
        whole = statistics.median(mine[0] / base[0] for base, mine in pairs)
        outside = statistics.median(1 + (mine[1] - base[1]) / base[0] for base, mine in pairs)
        print(f"{name:20} {whole:.3f} {outside:.4f}{' above' if outside > LIMIT else ''}", flush=True)


if __name__ == "__main__":
    typer.run(main)
