"""A baked adapter on the world of shapes, judged beside its teacher: python bench/baked.py OUT. Stopped, it goes on.

EMAG and CFG are baked by `emag bake` into OUT/adapter. The same prompts and seeds are then drawn without guidance, with the
adapter (both at one evaluation a step), under CFG (2), and under the teacher (2.2), and judged.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import emag
from emag.files import whole
from emag.lab.bake import work
from emag.lab.cli.bake import baked, usual
from emag.lab.draw.sampling import DrawSettings, Job, arguments, draw_images
from emag.lab.evaluate.prompts import of_world
from emag.worlds.shapes.verdict import judge

RULES = (emag.EMAG(1.25), emag.CFG(3.0))
SEED, BATCH = 5000, 20
"""Of the images that are judged: no lesson has one of these."""


def right(name: str, out: Path, count: int, steps: int) -> list[bool]:
    """Which of the images of a recipe are judged right, a verdict each, kept in OUT."""
    path = out / f"{name}-{count}x{steps}.json"
    if path.is_file():
        return json.loads(path.read_text())
    scale, rules, lora = {"none": (1.0, (), None), "baked": (1.0, (), str(out / "adapter")), "cfg": (3.0, (), None),
                          "teacher": (3.0, RULES, None)}[name]
    pipe, found = emag.load("shapes", lora=lora), []
    pipe.set_progress_bar_config(disable=True)
    jobs = [Job(one.text, None, SEED + at) for at, one in enumerate(of_world("shapes", count, 31))]
    for start in range(0, count, BATCH):
        group = jobs[start:start + BATCH]
        images, _ = draw_images(pipe, arguments(pipe, group, DrawSettings(steps, scale)), [job.seed for job in group], rules)
        pixels = np.stack([np.asarray(image) for image in images])
        found += [bool(verdict.right) for verdict in judge(pixels, [job.prompt for job in group])]
    with whole(path) as draft:
        draft.write_text(json.dumps(found))
    return found


def interval(values: np.ndarray) -> str:
    """A mean with its 95 % interval: bootstrap over prompts."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the adapter and the verdicts.")],
    images: Annotated[int, typer.Option(min=1, help="Images to learn from.")] = 256,
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 2000,
    judged: Annotated[int, typer.Option(min=2, help="Images of each recipe to judge.")] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 28,
) -> None:
    """Bake EMAG and CFG on shapes, and judge images with the adapter beside none, CFG and the teacher."""
    pipe = emag.load("shapes")
    pipe.set_progress_bar_config(disable=True)
    prompts, held_out = tuple(usual(pipe)), max(1, images // 8)
    teacher = work.Teacher(pipe, RULES, prompts, DrawSettings(steps), images, held_out, 16, "trajectory")
    work.check(teacher)
    path, held = baked(teacher, work.settings_of(8, iterations, 32, 2e-3, 0), out / "adapter")
    print(f"{path.stat().st_size / 1e6:.2f} MB, {images} images of {steps} steps, {iterations} iterations of 32 rows")
    print(f"held-out error left: {held.left:.1%} [{held.low:.1%}, {held.high:.1%}], {held.images} images")
    verdicts = {name: np.array(right(name, out, judged, steps), float) for name in ("none", "baked", "cfg", "teacher")}
    print(f"\n| recipe | evaluations a step | right, {judged} images | baked less it, paired |\n|---|---|---|---|")
    for (name, found), cost in zip(verdicts.items(), (1, 1, 2, 2.2)):
        print(f"| {name} | {cost} | {found.mean():.3f} | {'' if name == 'baked' else interval(verdicts['baked'] - found)} |")


if __name__ == "__main__":
    typer.run(main)
