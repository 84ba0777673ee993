"""What a model of the world of shapes gets right, by CFG scale: python bench/world_model.py --images 500 --scales 1,2,3,4

Prompts of the training distribution on seeds of their own; every scale draws the same prompts and the same noise. Shares
judged right, by the number of objects asked for and by kind of fault; the median distance to the nearest image of the world,
in dB; the spread of places and sizes over the true one. --sheet FILE draws the first prompts, framed green where right, red
where wrong.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

import emag
from emag.errors import BadValue
from emag.sheets import sheet
from emag.worlds.shapes import read, request, say
from emag.worlds.shapes.truth import compare
from emag.worlds.shapes.verdict import Verdict, judge

FAULTS, BATCH, SHOWN, SEED = ("number", "colour", "shape", "size", "relation", "background"), 50, 12, 4242


def prompts(count: int) -> list[str]:
    """Prompts of the training distribution."""
    rng = np.random.default_rng(SEED)
    return [say(request(rng)) for _ in range(count)]


def drawn(pipe: Any, some: list[str], scale: float, steps: int) -> np.ndarray:
    """uint8 images [n, 64, 64, 3]; image i has the noise of seed i."""
    parts = []
    for start in range(0, len(some), BATCH):
        part = some[start:start + BATCH]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        parts.append(pipe(part, guidance_scale=scale, num_inference_steps=steps, generator=noise, output_type="np").images)
    return (np.concatenate(parts) * 255 + 0.5).astype(np.uint8)


def summary(some: list[str], images: np.ndarray, verdicts: list[Verdict]) -> dict[str, float]:
    """Shares by name."""
    wanted = [read(prompt) for prompt in some]
    groups = {"one": [len(one.kinds) == 1 for one in wanted], "two kinds": [len(set(one.kinds)) == 2 for one in wanted],
              "several alike": [len(one.kinds) > 1 and len(set(one.kinds)) == 1 for one in wanted]}
    right = np.array([one.right for one in verdicts])
    found = {"right": float(right.mean())} | {name: float(right[np.array(rows)].mean()) for name, rows in groups.items()}
    found |= {name: float(np.mean([getattr(one, name) for one in verdicts])) for name in FAULTS}
    found["dB"] = float(np.median([one.decibels for one in verdicts]))
    try:
        truth = compare(images, some)
        found["spread"] = float(np.mean([one.spread for one in truth.differences[:3]]))
    except BadValue:
        found["spread"] = float("nan")
    return found


def framed(image: np.ndarray, right: bool) -> Image.Image:
    """An image with a frame that tells whether it is right."""
    return ImageOps.expand(Image.fromarray(image), 2, (40, 160, 60) if right else (200, 40, 40))


def main(model: str = "shapes", images: int = 200, scales: str = "1,2,3,4", steps: int = 28,
         out: Annotated[Path | None, typer.Option(help="JSON file of the numbers.")] = None,
         picture: Annotated[Path | None, typer.Option("--sheet", help="PNG of the first prompts.")] = None) -> None:
    """Draw, judge and print."""
    pipe, some, found, rows = emag.load(model, device="cpu"), prompts(images), {}, []
    pipe.set_progress_bar_config(disable=True)
    for scale in map(float, scales.split(",")):
        made = drawn(pipe, some, scale, steps)
        verdicts = judge(made, some)
        found[f"{scale:g}"] = summary(some, made, verdicts)
        rows.append([framed(image, one.right) for image, one in zip(made[:SHOWN], verdicts)])
    table = Table("CFG", *next(iter(found.values())), title=f"{model}, {images} images, {steps} steps")
    for scale, values in found.items():
        table.add_row(scale, *(f"{value:.3f}" if name != "dB" else f"{value:.1f}" for name, value in values.items()))
    Console(width=160).print(table)
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    if picture:
        sheet(rows, some[:SHOWN], [f"CFG {scale}" for scale in found], model, cell=128).save(picture)


if __name__ == "__main__":
    typer.run(main)
