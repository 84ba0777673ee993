"""`emag bake`: a guidance in the weights of an adapter."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from . import common as shared
from .bars import Lines
from .common import check_out, command, err, lines, out

PROMPTS = 512
"""Prompts of a world, where none are given."""


@command("emag bake shapes -g emag=1.5 -g cfg=4 -o adapter", "emag bake tiny -g pag=1.5 --scale 2.5 --times random",
         "emag bake shapes -g emag=1.5 --scale 3 --images 512 --iterations 4000",
         kept="what the teacher showed and the training so far are kept in {out_path}; the same command goes on",
         needs=("train",), without=("lora", "offload"))
def bake(
    model: shared.NamedModel,
    guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None,
    scale: shared.Scale = None, steps: shared.Steps = None, height: shared.Height = None, width: shared.Width = None,
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter, and for what a killed bake goes "
                                           "on from.")] = Path("adapter"),
    images: Annotated[int, typer.Option(min=1, help="Images to learn from.")] = 256,
    held: Annotated[int, typer.Option(min=1, help="Further images, to judge by.")] = 32,
    batch_size: shared.Batch = 16,
    times: Annotated[str, typer.Option(help="trajectory: follow whole runs, in order; random: ask at random noise levels, "
                                       "for rules without a memory.")] = "trajectory",
    levels: Annotated[int, typer.Option(help="Strengths to teach, from 1/LEVELS of the guidance to all of it. Above 1, the "
                                        "adapter takes any scale between: --lora adapter:w=2.")] = 1,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 16,
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 2000,
    rows: Annotated[int, typer.Option(min=1, help="Noisy images of one training step.")] = 32,
    lr: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the adapter and of the order.")] = 0,
    loading: shared.Loading = shared.ANY, as_json: shared.Json = False,
) -> None:
    """Train a LoRA with which one evaluation a step gives what a guided run gives, and say how near it comes.

    Any guidance is a teacher. Without rules, it is the pipeline's own guidance at --scale. The adapter is used at scale 1:
    emag generate ... --lora adapter --scale 1. With --levels 4 it learns a range of scales.

    Killed, the same command goes on. The error that is told is on images that were not learnt from.
    """
    from ..bake.looked import write_sheet
    from ..bake.work import Teacher, check, settings_of
    from ..draw.sampling import DrawSettings

    settings = settings_of(rank, iterations, rows, lr, seed)
    rules = shared.rules_of(guidance, recipe)
    given = lines(prompts or [], prompts_file, "prompt") if prompts or prompts_file else None
    folder = check_out(out_path)
    pipe = shared.open_pipeline(model, loading)
    teacher = Teacher(pipe, rules, tuple(given or usual(pipe)), DrawSettings(steps, scale, height, width), images, held,
                      batch_size, times, levels)
    check(teacher)
    path, found = baked(teacher, settings, folder)
    seen = write_sheet(teacher, folder / "sheet.png")
    if as_json:
        shared.show_json({"adapter": str(path), "sheet": str(seen), **asdict(found)})
        return
    out.print(f"held-out error {found.before:.4g} before, {found.after:.4g} after: {found.left:.1%} of it left (95 % "
              f"interval {found.low:.1%} to {found.high:.1%}, {found.images} images)")
    out.print(f"images with it beside the teacher's: {seen}")
    line = shlex.join(["emag", "generate", "...", "-m", model, *loading.words, "--lora", str(folder), "--scale", "1"])
    out.print(f"adapter in {path}; use it at scale 1: {line}")


def baked(teacher: Any, settings: Any, folder: Path) -> tuple[Path, Any]:
    """Lessons, then the training, saved now and then; the adapter and its held-out error."""
    from ...engine.reading import read_network
    from ...hosts.lookup import denoisers, host_of
    from ..bake import work
    from ..bake.baker import Baker

    calls = sum(map(len, teacher.parts))
    with shared.progress(calls, "following the teacher") as (_, finished):
        learnt, held = work.lessons(teacher, folder, finished)
    baker = Baker(read_network(denoisers(teacher.pipe, host_of(teacher.pipe))[0]), learnt, settings)
    if work.restore(baker, folder):
        err.print(f"continues at step {baker.step} of {settings.iterations}")
    _train(baker, lambda: work.save(baker, folder))
    return work.finish(teacher, baker, held, folder)


def _train(baker: Any, save: Callable[[], None]) -> None:
    """The rest of a training, saved each minute and at its end, also where ctrl-c brings that about."""
    from rich.progress import Progress

    from ..train.progress import COLUMNS, Clock, Meter, stop_on_signals

    clock, count = Clock(0.0), baker.settings.iterations
    with Progress(*COLUMNS, console=err, disable=not err.is_terminal) as bar, stop_on_signals() as stopped:
        meter, told = Meter(baker, bar), Lines("training", count, "steps", baker.step)
        while baker.step < count and not stopped():
            meter.add(baker.advance(), baker.step / count)
            if not err.is_terminal:
                told.at(baker.step)
            if clock.due("save", 1.0):
                meter.show(baker.step / count)  # a loss that is no number is told before it is saved
                save()
        meter.show(baker.step / count)
        save()
        if baker.step < count:
            raise KeyboardInterrupt


def usual(pipe: Any) -> list[str]:
    """Prompts where none are given: those of the embedded models. Raises `BadValue` for another model."""
    from ..evaluate.prompts import of_world

    if getattr(pipe, "emag_model", None) == "shapes":
        return [one.text for one in of_world("shapes", PROMPTS, 5)]
    if getattr(pipe, "classes", None):
        return [f"a photo of a {name}" for name in pipe.classes]
    raise BadValue("give prompts that this model is used with, a file with one a line: --prompts prompts.txt (more of them "
                   "make a better adapter)")
