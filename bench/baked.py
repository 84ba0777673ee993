"""A baked adapter on the world of shapes, judged beside its teacher: python bench/baked.py OUT. Stopped, it goes on.

EMAG and CFG are baked by `emag bake` into OUT/adapter. The same prompts and noise are then drawn without guidance, with the
adapter (both at one evaluation a step), under CFG (2), and under the teacher (2.4), and judged; --page writes the results.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

import emag
from emag.files import whole
from emag.lab.bake import work
from emag.lab.bake.baker import HeldOut
from emag.lab.cli.bake import baked, usual
from emag.lab.draw.columns import Column, run
from emag.lab.draw.sampling import DrawSettings, Job, batches
from emag.lab.draw.sheets import sheet
from emag.lab.evaluate.metrics.bootstrap import Estimate, Statistic, difference, interval, mean
from emag.lab.evaluate.metrics.extractors.judged import Judge
from emag.lab.evaluate.metrics.frechet import distance, moments
from emag.lab.evaluate.prompts import of_world
from emag.lab.evaluate.truth import true_parameters

RULES = (emag.EMAG(1.25), emag.CFG(3.0))
RECIPES = {"none": Column("none", (), 1.0), "baked": Column("baked", (), 1.0), "cfg": Column("cfg", (), 3.0),
           "teacher": Column("teacher", RULES, 3.0)}
SEED, BATCH, SHOWN = 5000, 20, 8
"""Seeds of the images that are judged (no lesson has one of these), images of a call, and how many the picture shows."""
MEASURES = {"correct": ("all of the prompt right", ".3f"),
            "residual": ("dB to the nearest image of the world, less is cleaner", ".2f"),
            "frechet": ("Frechet distance of seven parameters of the right images to the world's, in its spread", ".3f"),
            "away": ("root mean square difference to the teacher's image of the same noise, of 255", ".2f")}


@dataclass(frozen=True)
class Drawn:
    """Images of a recipe, uint8 [n, 64, 64, 3], and its evaluations of the network a step."""

    images: np.ndarray
    evaluations: float


def drawn(name: str, out: Path, prompts: list[str], steps: int) -> Drawn:
    """The images of a recipe, kept in OUT."""
    path = out / f"{name}-{len(prompts)}x{steps}.npz"
    if not path.is_file():
        pipe = emag.load("shapes", dtype="bfloat16", lora=str(out / "adapter") if name == "baked" else None)
        pipe.set_progress_bar_config(disable=True)
        jobs = [Job(text, None, SEED + at) for at, text in enumerate(prompts)]
        parts = [run(pipe, RECIPES[name], group, DrawSettings(steps), BATCH) for group in batches(jobs, BATCH)]
        images = np.stack([np.asarray(image) for part in parts for image in part.images])
        cost = parts[0].evaluations / steps / pipe.transformer.config.num_layers
        with whole(path) as draft, draft.open("wb") as file:
            np.savez(file, images=images, evaluations=cost)
    with np.load(path) as kept:
        return Drawn(kept["images"], float(kept["evaluations"]))


def statistics(images: np.ndarray, prompts: list[str], teacher: np.ndarray) -> dict[str, Statistic]:
    """What is measured of the images of a recipe, by the names of MEASURES; row i is image i."""
    found = Judge()(images, prompts)
    true = true_parameters(tuple(prompts), 0)
    # only right images have parameters: the truth is looked at for the same prompts
    both, spread = (found["right"] == 1) & ~np.isnan(true[:, 0]), np.nanstd(true, 0)
    mine, theirs = found["parameters"] / spread, np.nan_to_num(true) / spread
    away = np.sqrt(((images.astype(float) - teacher) ** 2).mean((1, 2, 3)))

    def frechet(weights: np.ndarray) -> float:
        return distance(moments(mine, weights * both), moments(theirs, weights * both))

    return {"correct": mean(found["right"] == 1), "residual": mean(found["residual"]),
            "frechet": Statistic(frechet, len(both), 200, biased=True), "away": mean(away)}


def text_of(one: Estimate, form: str, sign: str = "") -> str:
    """A value with its 95 % interval."""
    value, low, high = (format(number, sign + form) for number in (one.value, one.low, one.high))
    return f"{value} [{low}, {high}]"


def table(found: dict[str, dict[str, Statistic]], cost: dict[str, float]) -> list[str]:
    """A line for each recipe."""
    lines = ["| recipe | evaluations a step | " + " | ".join(MEASURES) + " |", "|---" * (2 + len(MEASURES)) + "|"]
    for name, measures in found.items():
        cells = ["0" if (name, key) == ("teacher", "away") else text_of(interval(measures[key]), form)
                 for key, (_, form) in MEASURES.items()]
        lines.append(f"| `{name}` | {cost[name]:.2f} | " + " | ".join(cells) + " |")
    return lines


def differences(found: dict[str, dict[str, Statistic]]) -> list[str]:
    """A line for each recipe that the adapter is held against; bold where the interval leaves out 0."""
    lines = ["| `baked` less | " + " | ".join(MEASURES) + " |", "|---" * (1 + len(MEASURES)) + "|"]
    for name in ("teacher", "cfg", "none"):
        cells = []
        for key, (_, form) in MEASURES.items():
            one = None if (name, key) == ("teacher", "away") else difference(found["baked"][key], found[name][key])
            mark = "**" if one and (one.low > 0 or one.high < 0) else ""
            cells.append(f"{mark}{text_of(one, form, '+')}{mark}" if one else "")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def verdict(found: dict[str, dict[str, Statistic]]) -> list[str]:
    """Whether the adapter is within noise of its teacher, measure by measure, in words that follow from the numbers."""
    lines = []
    for key in ("correct", "residual", "frechet"):
        far = difference(found["baked"][key], found["teacher"][key])
        way = difference(found["teacher"][key], found["none"][key])
        share = f"; the teacher is {way.value:{MEASURES[key][1]}} from no guidance"
        lines.append(f"- **{key}**: {'within' if far.low <= 0 <= far.high else 'not within'} noise of the teacher, "
                     f"{text_of(far, MEASURES[key][1], '+')}{share}.")
    return lines


def write_page(page: Path, found: dict[str, dict[str, Statistic]], cost: dict[str, float], held: HeldOut,
               said: dict[str, Any]) -> None:
    """The results as Markdown; `said` has the settings."""
    text = PAGE.format(verdict="\n".join(verdict(found)), table="\n".join(table(found, cost)), picture=page.stem,
                       differences="\n".join(differences(found)), held=held, **said,
                       measures="\n".join(f"- `{name}`: {words}" for name, (words, _) in MEASURES.items()))
    with whole(page) as draft:
        draft.write_text(text)


def write_picture(path: Path, images: dict[str, np.ndarray], prompts: list[str]) -> None:
    """The first images of every recipe, a prompt a row."""
    rows = [[Image.fromarray(images[name][at]) for name in RECIPES] for at in range(SHOWN)]
    page = sheet(rows, list(RECIPES), prompts[:SHOWN], "the same prompts and noise; no lesson had them")
    with whole(path) as draft:
        page.save(draft, format="PNG")


PAGE = """# Results: guidance in the weights

Made by `python bench/baked.py`; no number or verdict here is written by hand.

EMAG at 1.25 and CFG at 3 on the model `shapes`, {steps} steps, learnt by a LoRA of rank {rank} ({size:.2f} MB) by
`emag bake`: {images} images of the teacher (no other data), {iterations} training steps of {rows} noisy images. Then
{judged} images of each recipe, of prompts and noise that no lesson had, in bfloat16. Brackets are 95 % intervals, by
bootstrap over images; differences are paired.

## What comes out

{verdict}
- **Held-out predictions**: {held.left:.1%} [{held.low:.1%}, {held.high:.1%}] of the mean square difference to the
  teacher's are left, on the runs of {held.images} images that were not learnt from.

{table}

{measures}

{differences}

Bold where the interval leaves out 0.

![the first images of each recipe]({picture}.png)

The adapter is `examples/shapes-baked` of the repository. Again, within two hours of two cores:

    python bench/baked.py out/baked --page docs/results/baked.md
"""


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the adapter and the images.")],
    images: Annotated[int, typer.Option(min=1, help="Images to learn from.")] = 384,
    held: Annotated[int, typer.Option(min=1, help="Further images, for the held-out error.")] = 32,
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 2000,
    judged: Annotated[int, typer.Option(min=20, help="Images of each recipe to judge.")] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 28,
    page: Annotated[Path | None, typer.Option(help="Markdown file for the results; its picture stands beside it.")] = None,
) -> None:
    """Bake EMAG and CFG on shapes, and judge images with the adapter beside none, CFG and the teacher."""
    pipe = emag.load("shapes")
    pipe.set_progress_bar_config(disable=True)
    teacher = work.Teacher(pipe, RULES, tuple(usual(pipe)), DrawSettings(steps), images, held, 16, "trajectory")
    work.check(teacher)
    settings = work.settings_of(10, iterations, 32, 2e-3, 0)
    path, left = baked(teacher, settings, out / "adapter")
    prompts = [one.text for one in of_world("shapes", judged, 31)]
    made = {name: drawn(name, out, prompts, steps) for name in RECIPES}
    found = {name: statistics(one.images, prompts, made["teacher"].images) for name, one in made.items()}
    cost = {name: one.evaluations for name, one in made.items()}
    print("\n".join([*verdict(found), "", *table(found, cost), "", *differences(found)]))
    if page:
        said = {"steps": steps, "size": path.stat().st_size / 1e6, "images": images, "judged": judged}
        write_page(page, found, cost, left, {**asdict(settings), **said})
        write_picture(page.with_suffix(".png"), {name: one.images for name, one in made.items()}, prompts)


if __name__ == "__main__":
    typer.run(main)
