"""What methods without evaluations of their own cost in seconds: each beside CFG, as ratios in one run.

python bench/free.py --blocks 12 --width 384 --tokens 1024 --steps 8

The network has random weights. Two ratios: of whole calls, each method's beside CFG's, turn by turn; and of the seconds
that rules take outside the network's passes, which other work on the machine moves less. What works inside the network, or
gives the unconditional prediction by another pass, shows in the first alone. Solvers are timed in our own loop, beside
Euler. On a CPU seconds are those of the process.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file

import emag
from emag.core import COND, UNCOND, Rule
from emag.engine.passes import Passes
from emag.lab.draw import showcase
from emag.lab.pages.catalogue import catalogue
from emag.samplers import SOLVERS
from emag.samplers import Path as Levels
from overhead import Stopwatch, shaped
from timed.shapes import Call, Shape, network, pipeline

LIMIT = 1.01
"""The most that a method without evaluations may take, times CFG."""
OTHER = "other"
"""The condition that rules name which need one."""
CFG = emag.CFG(4.0)
UNTIMED = {
    "constant": "a plain number", "cfg": "what the others are held against", "euler": "what solvers are held against",
    "soft-cfg": "of tokens: python bench/tokens.py", "internal-guidance": "needs a network with a head of its own",
    **dict.fromkeys(("fkc", "fkc-product", "fkc-anneal"), "several particles an image, each with its evaluations"),
    "style-moments": "a corrector of our own loop: a mean and a deviation of each channel, once a step",
}
"""Methods whose cost begins with "none" and that are left out here, and why."""


@dataclass(frozen=True)
class Timed:
    """A method at its setting: its rules, whether its cost is "none" in so many words, and what it needs beside the call."""

    rules: tuple[Rule, ...]
    free: bool
    more: Mapping[str, Any] = field(default_factory=dict)


def head() -> str:
    """A file with random weights for annealing guidance."""
    made = {}
    for i, (into, out) in enumerate(pairwise((12, 128, 128, 128, 1))):
        name = f"combined_head.{2 * i}"
        made |= {f"{name}.weight": torch.randn(out, into) / into, f"{name}.bias": torch.zeros(out)}
    path = Path(tempfile.mkdtemp()) / "head.safetensors"
    save_file(made, path)
    return str(path)


def measured() -> str:
    """A file with a ratio for ReCFG."""
    path = Path(tempfile.mkdtemp()) / "ratios.safetensors"
    save_file({"ratios": torch.tensor([0.7])}, path)
    return str(path)


def settings() -> dict[str, tuple[Rule, ...]]:
    """Rules of the methods that need more than a text, by name."""
    inside = {name: (emag.method(name)(), CFG) for name in ("nag", "o-nag", "vsf")}
    return {**inside, "modulation": (emag.ModulationGuidance(OTHER), CFG), "cdg": (emag.CDG(1, OTHER), CFG),
            "personalization": (emag.Personalization("pretrained"), CFG), "domain": (emag.Domain("pretrained"), CFG),
            "priors": (emag.Priors("pretrained"), CFG), "annealing": (emag.CFG(emag.Annealing(0.4, head())),),
            "recfg": (emag.ReCFG(measured()), CFG)}


def methods(shape: Shape, call: Call) -> dict[str, Timed]:
    """Rules and schedules whose cost begins with "none", at the setting of the showcase, beside CFG where none combines."""
    shown = {column.label: column.rules for column in showcase.columns() if not column.own_loop}
    rules = {**shown, **settings()}
    text = {name: call.drawn[f"negative_{key}"][:1] for name, key in (
        ("encoder_hidden_states", "prompt_embeds"), ("pooled_projections", "pooled_prompt_embeds"))}
    more = {"conditions": {OTHER: text}, "models": {"pretrained": network(shape, call.device, call.dtype)},
            "masks": {"content": torch.ones(1, shape.text, dtype=torch.bool)}}
    found = {}
    for method in catalogue():
        name = method["name"]
        if method["cost"].startswith("none") and name in rules and name not in UNTIMED:
            own = any(rule.kind == "combining" for rule in rules[name])
            plain = method["cost"] == "none" or method["kind"] == "schedule"
            needs = settings_of(rules[name], more)
            found[name] = Timed(rules[name] if own else (*rules[name], CFG), plain, needs)
    return found


def settings_of(rules: tuple[Rule, ...], more: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `more` that rules name: what is given and not used would be refused."""
    written = repr(rules)
    return {key: value for key, value in more.items() if any(repr(name) in written for name in value)}


def clock(device: str) -> float:
    """Seconds so far: of this process on a CPU, where others may work too."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def once(pipe: Any, timed: Timed, call: dict[str, Any], device: str) -> tuple[float, float]:
    """Seconds of one call, and of those outside the network's passes."""
    passes = Stopwatch(Passes, "clean", "weak", clock=lambda: clock(device))
    with emag.guide(pipe, *timed.rules, **timed.more), passes:
        start = clock(device)
        pipe(**call)
        whole = clock(device) - start
    return whole, whole - sum(passes.seconds.values())


def solved(pipe: Any, name: str, call: Call, steps: int) -> tuple[float, float]:
    """Seconds of one run of our own loop with a solver, and of those outside the network."""
    net, inside = pipe.transformer, 0.0
    texts = {side: (call.drawn[f"{sign}prompt_embeds"], call.drawn[f"{sign}pooled_prompt_embeds"])
             for side, sign in ((COND, ""), (UNCOND, "negative_"))}

    def denoiser(x: torch.Tensor, sigma: float, side: str) -> torch.Tensor:
        nonlocal inside
        start = clock(call.device)
        answer = net(x, *texts[side], torch.full((len(x),), 1000 * sigma, device=x.device), return_dict=False)[0]
        inside += clock(call.device) - start
        return answer

    solver = SOLVERS[name]()
    levels = Levels.flow(tuple(1 - i / (steps + 1) for i in range(steps)) + (0.0,))
    rules = () if solver.guides else (CFG,)
    model = emag.guided(denoiser, *rules, path=levels, conditions={COND: COND, UNCOND: UNCOND})
    side, seed = net.config.sample_size, torch.Generator().manual_seed(1)
    x = torch.randn(1, net.config.in_channels, side, side, generator=seed).to(call.device, call.dtype)
    with torch.no_grad():
        start = clock(call.device)
        emag.sample(model, x, solver=solver)
        whole = clock(call.device) - start
    return whole, whole - inside


Clocked = Callable[[], tuple[float, float]]


def ratios(base: Clocked, mine: Clocked, repeats: int) -> tuple[float, float]:
    """(whole, outside the passes) of one method over those of another, in turns."""
    pairs = [(base(), mine()) for _ in range(repeats)]
    return (statistics.median(m[0] / b[0] for b, m in pairs), statistics.median(1 + (m[1] - b[1]) / b[0] for b, m in pairs))


def lines(pipe: Any, call: Call, steps: int, repeats: int, only: str) -> Iterator[tuple[str, float, float, bool]]:
    """(name, whole, outside, whether it should take nothing) of each method in turn."""
    chosen, device, arguments = only.split(","), call.device, call.arguments(steps)
    plain = Timed((CFG,), True)
    once(pipe, plain, arguments, device)
    for name, timed in methods(call.shape, call).items():
        if not only or name in chosen:
            yield name, *ratios(lambda: once(pipe, plain, arguments, device),
                                lambda timed=timed: once(pipe, timed, arguments, device), repeats), timed.free
    for name, solver in SOLVERS.items():
        if solver.cost == "none" and name not in UNTIMED and (not only or name in chosen):
            yield name, *ratios(lambda: solved(pipe, "euler", call, steps),
                                lambda name=name: solved(pipe, name, call, steps), repeats), True


def main(
    blocks: int = 12, width: int = 384, tokens: Annotated[int, typer.Option(help="Image tokens, a square.")] = 1024,
    text: int = 77, steps: int = 8, device: str = "cpu", dtype: str = "float32", repeats: int = 2,
    only: Annotated[str, typer.Option(help="Methods, joined by commas; all without.")] = "",
) -> None:
    """Time every method that costs no evaluation against CFG."""
    logging.getLogger("emag").setLevel(logging.WARNING + 1)  # which CFG combines is no news here
    shape = shaped(blocks, width, tokens, text)
    call = Call(shape, 1, device, getattr(torch, dtype))
    pipe = pipeline(shape, device, call.dtype)
    print(f"{blocks} blocks, {tokens} + {text} tokens, {steps} steps; x CFG: whole calls, and outside the passes")
    for name, whole, outside, free in lines(pipe, call, steps, repeats, only):
        print(f"{name:20} {whole:.3f} {outside:.4f}{' above' if free and outside > LIMIT else ''}", flush=True)


if __name__ == "__main__":
    typer.run(main)
