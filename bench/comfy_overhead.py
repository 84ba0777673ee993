"""EMAG over plain sampling in ComfyUI, beside the same in diffusers and ComfyUI's own SLG node: seconds and exact counts.

make test-comfy  # once: a ComfyUI tree and its environment
COMFYUI=.venv/comfy/0.30.0/tree PYTHONPATH=src .venv/comfy/0.30.0/venv/bin/python bench/comfy_overhead.py \\
    --page docs/comfy.md

One mid-size SD3 with random weights, the same ones in both hosts, on the CPU: they cost what trained ones cost. A round
times every line once, forwards and backwards in turn, and ratios are taken within a round: their geometric mean over the
rounds, with Student's 95 % interval of the logarithms. Seconds are the processor's, so that a busy machine tells the same;
counts are rows that entered blocks, seen by hooks from outside.
"""

import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import FlowMatchEulerDiscreteScheduler
from scipy.stats import ttest_1samp

import emag
from emag.testing import small

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "comfyui"))
TEXT, POOLED, LENGTH, CFG = 256, 256, 77, 4.5
MARKS = "<!-- by bench/comfy_overhead.py -->", "<!-- end -->"
Lines = dict[str, tuple[Callable[[], Any], Any]]


def pipeline(blocks: int, side: int) -> Any:
    """An SD3 pipeline whose weights ComfyUI reads: heads of width 64, as many as blocks. side: of the latents."""
    width = 64 * blocks
    pipe = small.sd3(blocks, attention_head_dim=64, num_attention_heads=blocks, caption_projection_dim=width,
                     sample_size=side, in_channels=16, out_channels=16,
                     joint_attention_dim=TEXT, pooled_projection_dim=POOLED,
                     pos_embed_max_size=side // 2)
    pipe.vae, pipe.scheduler = small.vae(16), FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipe


def lines(pipe: Any, side: int, steps: int, layers: tuple[int, ...]) -> Lines:
    """What is compared: its call, and the blocks that it runs through. The first line of each host is plain CFG."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    import parity
    from emag.hosts.comfy.patch import patched

    window = emag.Window.progress(0, 0.2, 0.8)
    rule, model = emag.EMAG(1.5, layers=layers, window=window), parity.converted(pipe.transformer)
    text = [parity.drawn(1, LENGTH, TEXT, seed=i) for i in (1, 2)]
    pooled = [parity.drawn(1, POOLED, seed=i) for i in (3, 4)]
    noise = parity.drawn(1, 16, side, side, seed=5)
    conds = [[[t, {"pooled_output": p}]] for t, p in zip(text, pooled, strict=True)]
    slg = SkipLayerGuidanceDiT.execute(model, 3.0, 0.2, 0.8, str(layers[0]), "")
    slg = slg.args[0] if hasattr(slg, "args") else slg[0]

    def ours(*rules: emag.Rule) -> None:
        with emag.guide(pipe, *rules):
            pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], pooled_prompt_embeds=pooled[0],
                 negative_pooled_prompt_embeds=pooled[1], latents=noise, guidance_scale=CFG, num_inference_steps=steps,
                 output_type="latent", height=2 * side, width=2 * side)

    def theirs(guided: Any) -> None:
        pipe.scheduler.set_timesteps(steps)
        parity.comfy_latents(guided, noise, pipe.scheduler.sigmas, *conds, CFG)

    there, here = model.model.diffusion_model.joint_blocks, pipe.transformer.transformer_blocks
    emag_there = patched(model, (rule,))
    return {"ComfyUI, CFG": (lambda: theirs(model), there), "ComfyUI, EMAG": (lambda: theirs(emag_there), there),
            "ComfyUI, its own SLG": (lambda: theirs(slg), there), "diffusers, CFG": (ours, here),
            "diffusers, EMAG": (lambda: ours(rule), here)}


@contextmanager
def counted(blocks: Any) -> Iterator[list[int]]:
    """Rows of each call of a block."""
    rows: list[int] = []

    def seen(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows.append(len(next(one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor) and one.ndim == 3)))

    hooks = [block.register_forward_pre_hook(seen, with_kwargs=True) for block in blocks]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Ratio:
    """Of two lines, over the rounds: the geometric mean, and its 95 % interval where there are rounds enough."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float], base: Sequence[float]) -> "Ratio":
        """From the seconds of two lines in the same rounds."""
        logs = [math.log(a / b) for a, b in zip(seconds, base, strict=True)]
        interval = ttest_1samp(logs, 0.0).confidence_interval(0.95)
        return cls(*map(math.exp, (statistics.fmean(logs), *map(float, interval))))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def counts(found: Lines) -> dict[str, int]:
    """Block evaluations by line: a first round that is not timed."""
    made = {}
    for name, (call, blocks) in found.items():
        with counted(blocks) as rows:
            call()
        made[name] = sum(rows)
    return made


def timed(found: Lines, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by line."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(rounds):
        for name in list(found)[::-1 if round_ % 2 else 1]:
            start = time.process_time()
            found[name][0]()
            seconds[name].append(time.process_time() - start)
    return seconds


def table(seconds: dict[str, list[float]], evaluations: dict[str, int]) -> str:
    """Every line beside plain CFG of its host, in Markdown."""
    rows = ["| | s/image | over CFG there (95 %) | block evaluations | over CFG there |", "|---|---|---|---|---|"]
    for name, own in seconds.items():
        plain = f"{name.split(',')[0]}, CFG"
        ratio = "1" if name == plain else str(Ratio.of(own, seconds[plain]))
        rows.append(f"| {name} | {statistics.median(own):.2f} | {ratio} | {evaluations[name]} | "
                    f"{evaluations[name] / evaluations[plain]:.3f} |")
    return "\n".join(rows)


def put(page: Path, text: str) -> None:
    """A text between the marks of a page, in the place of what was there."""
    before = page.read_text()
    after, found = re.subn("(?s)(?<=" + MARKS[0] + ").*?(?=" + MARKS[1] + ")", lambda _: f"\n{text}\n", before)
    if found != 1:
        raise SystemExit(f"{page} has {found} places between {MARKS[0]} and {MARKS[1]}, expected one")
    page.write_text(after)


def main(blocks: int = 6, side: int = 32, steps: int = 10, layers: str = "2-3",
         rounds: Annotated[int, typer.Option(min=2)] = 8,
         page: Annotated[Path | None, typer.Option(help="A page whose marked part is written anew.")] = None) -> None:
    """Time plain CFG, EMAG and SLG in one run."""
    from tree import use

    if "COMFYUI" not in os.environ:
        raise SystemExit("say COMFYUI=folder of a ComfyUI; `make test-comfy` gets one")
    version = use(os.environ["COMFYUI"])
    low, _, high = layers.partition("-")
    torch.set_num_threads(1)
    found = lines(pipeline(blocks, side), side, steps, tuple(range(int(low), int(high or low) + 1)))
    evaluations = counts(found)
    text = (f"{blocks} blocks, {64 * blocks} wide, {side * side // 4} image and {LENGTH} text tokens, {steps} steps, fp32,\n"
            f"EMAG among blocks {layers}; one thread of {cpu()}, torch {torch.__version__}, ComfyUI {version}; "
            f"{rounds} rounds:\n\n{table(timed(found, rounds), evaluations)}")
    print(text)
    if page:
        put(page, text)


def cpu() -> str:
    """The processor's name where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    typer.run(main)
