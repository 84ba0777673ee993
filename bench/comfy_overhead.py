"""EMAG over plain sampling in ComfyUI, beside the same in diffusers and ComfyUI's own SLG node: seconds and exact counts.

make test-comfy  # once: a ComfyUI tree and its environment
COMFYUI=.venv/comfy/0.30.0/tree PYTHONPATH=src .venv/comfy/0.30.0/venv/bin/python bench/comfy_overhead.py

One mid-size SD3 with random weights, the same ones in both hosts, on the CPU: they cost what trained ones cost. Lines are
timed in turn, and ratios are taken within a round. Seconds are the processor's, so that a busy machine tells the same;
counts are rows that entered blocks, seen by hooks from outside.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import typer
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from rich.table import Table

import emag
from emag.testing import small

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "comfyui"))
TEXT, POOLED, LENGTH, CFG = 256, 256, 77, 4.5
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


def measured(found: Lines, repeats: int) -> dict[str, tuple[list[float], int]]:
    """Seconds of every round and block evaluations, by line."""
    counts = {}
    for name, (call, blocks) in found.items():  # a first round that is not timed
        with counted(blocks) as rows:
            call()
        counts[name] = sum(rows)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, (call, _) in found.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: (seconds[name], counts[name]) for name in found}


def main(blocks: int = 6, side: int = 32, steps: int = 10, layers: str = "2-3", repeats: int = 3) -> None:
    """Time plain CFG, EMAG and SLG in one run."""
    from tree import use

    if "COMFYUI" not in os.environ:
        raise SystemExit("say COMFYUI=folder of a ComfyUI; `make test-comfy` gets one")
    version = use(os.environ["COMFYUI"])
    low, _, high = layers.partition("-")
    torch.set_num_threads(1)
    found = measured(lines(pipeline(blocks, side), side, steps, tuple(range(int(low), int(high or low) + 1))), repeats)
    table = Table("line", "CPU s/image", "spread", "x CFG there", "block evaluations", "x CFG there", box=None,
                  title=f"{blocks} blocks, {64 * blocks} wide, {side * side // 4} + {LENGTH} tokens, {steps} steps, fp32")
    for name, (seconds, count) in found.items():
        base, base_count = found[f"{name.split(',')[0]}, CFG"]
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}", f"{ratio:.3f}",
                      str(count), f"{count / base_count:.3f}")
    Console(width=130).print(table, f"{cpu()}, 1 thread, torch {torch.__version__}, ComfyUI {version}")


def cpu() -> str:
    """The processor's name where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    typer.run(main)
