"""What it costs, and what it spares, to extrapolate EMAG's direction on steps without a weak evaluation.

python bench/carried.py --images 40 --steps 28

The embedded model. Error: distance of the final latents from those with every evaluation made, over the distance that EMAG
itself makes (relative L2 over all images). What it does to quality is measured by bench/carried.yaml.
"""

import platform
from typing import Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import emag

SETTINGS: dict[str, dict[str, Any]] = {
    "every=1": {}, "every=2": {"every": 2}, "every=3": {"every": 3}, "every=4": {"every": 4}, "every=6": {"every": 6},
    "every=4,agree=0.9": {"every": 4, "agree": 0.9}, "every=4,agree=0.97": {"every": 4, "agree": 0.97}}


def latents(pipe: Any, images: int, steps: int, *rules: emag.EMAG) -> tuple[torch.Tensor, int, int]:
    """Final latents, block evaluations per image, and weak evaluations."""
    prompts = [f"a photo of a {pipe.classes[i % 10]}" for i in range(images)]
    noise = [torch.Generator().manual_seed(i) for i in range(images)]
    with emag.guide(pipe, *rules) as run:
        made = pipe(prompt=prompts, generator=noise, num_inference_steps=steps, output_type="latent").images
    weak = sum(effect is not None for effect in run.latest.effects) if run.latest else 0
    return made, run.latest.evaluations if run.latest else 0, weak


def lines(pipe: Any, images: int, steps: int, scale: float, variant: str) -> Table:
    """One row per setting."""
    columns = "setting", "weak evaluations", "block evaluations", "x CFG", "error / effect"
    table = Table(*columns, box=None, title=f"EMAG {variant}")
    plain, _, _ = latents(pipe, images, steps)
    base = 2 * len(pipe.transformer.transformer_blocks) * steps
    full: torch.Tensor | None = None
    for name, more in track(SETTINGS.items(), f"{variant}", console=Console(stderr=True)):
        made, blocks, weak = latents(pipe, images, steps, emag.EMAG(scale, variant=variant, **more))
        full = made if full is None else full
        error = float((made - full).norm() / (full - plain).norm())
        table.add_row(name, str(weak), str(blocks), f"{blocks / base:.3f}", f"{error:.3f}")
    return table


def main(images: int = 40, steps: int = 28, scale: float = 1.5) -> None:
    """Print a table for queries and one for maps."""
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    for variant in ("query", "map"):
        Console(width=120).print(lines(pipe, images, steps, scale, variant))
    print(f"{images} images, {steps} steps, emag={scale}; {platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
