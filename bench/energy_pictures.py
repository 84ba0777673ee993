"""An inpainting and a two-object energy on `shapes`, as sheets for the docs: python bench/energy_pictures.py --out docs."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

import emag
from emag.core import Rule, Score
from emag.lab.draw.sheets import sheet
from emag.scores import Distance

STEPS, SCALE, SIZE = 20, 3.0, 64
SEEDS, KNOWN = (1, 2, 3, 4), (2, 4, 12, 14)
"""Seeds of what is drawn, and of the pictures whose left half is given."""
ASKED = "a red circle"


def drawn(pipe: Any, prompt: str, *rules: Rule, seeds: tuple[int, ...] = SEEDS) -> torch.Tensor:
    """Images [seeds, 3, 64, 64] in [0, 1]."""
    with emag.guide(pipe, emag.CFG(SCALE), *rules):
        return pipe([prompt] * len(seeds), num_inference_steps=STEPS, output_type="pt",
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds]).images.float()


def pictures(images: torch.Tensor) -> list[Image.Image]:
    """Images [n, 3, h, w] in [0, 1] as pictures."""
    return [Image.fromarray(one.permute(1, 2, 0).mul(255).round().byte().numpy()) for one in images.clamp(0, 1)]


def energy(score: Score) -> emag.Energy:
    """Each step is made three times, so that what the score wants and what the network knows meet without a seam."""
    return emag.Energy(score, 0.1, "next", normalise="rms", inner=4, recur=3)


def inpainting(pipe: Any) -> Image.Image:
    """The left half of each picture is given; the same prompt from other seeds, without and with the energy."""
    known, mask = drawn(pipe, ASKED, seeds=KNOWN), torch.zeros(1, 1, SIZE, SIZE)
    mask[..., :SIZE // 2] = 1
    given = known * mask + 0.5 * (1 - mask)
    made = [drawn(pipe, ASKED), drawn(pipe, ASKED, energy(Distance(known, mask)))]
    columns = [f"seed {seed}" for seed in SEEDS]
    return sheet([pictures(given), *map(pictures, made)], columns, ["given: the left half", f"{ASKED!r}", "and the energy"],
                 "Inpainting as an energy")


def disc(x: float, y: float, radius: float = 9.0) -> torch.Tensor:
    """1 within a circle around (x, y) in pixels, 0 elsewhere: [1, 1, 64, 64]."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((columns - x) ** 2 + (rows - y) ** 2) <= radius**2).float()[None, None]


def patch(colour: tuple[float, float, float], mask: torch.Tensor) -> Score:
    """A colour wanted where the mask is 1."""
    return Distance(torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE), mask)


def two_objects(pipe: Any) -> Image.Image:
    """Red on the left and blue on the right, asked for by a score for each; the prompt names both, not where."""
    red, blue = patch((0.85, 0.15, 0.15), disc(16, 32)), patch((0.15, 0.25, 0.85), disc(48, 32))
    prompt = "a red circle and a blue square"

    def both(images: torch.Tensor) -> torch.Tensor:
        return red(images) + blue(images)

    rows = [drawn(pipe, prompt), drawn(pipe, prompt, energy(red)), drawn(pipe, prompt, energy(both))]
    return sheet([pictures(row) for row in rows], [f"seed {seed}" for seed in SEEDS],
                 [f"{prompt!r}", "red on the left", "and blue on the right"], "Two objects, each by an energy")


def main(out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("docs")) -> None:
    """Draw both sheets."""
    pipe = emag.load("shapes")
    pipe.set_progress_bar_config(disable=True)
    for name, made in (("energy-inpainting", inpainting), ("energy-two-objects", two_objects)):
        made(pipe).save(out / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
