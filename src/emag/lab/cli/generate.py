"""`emag generate`: images from prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from . import common as shared
from .common import command, err, lines, out
from .outputs import file_or_folder


@command('emag generate "a photo of a ship" -g emag=1.5 --seeds 8-11',
         'emag generate "a ship" "a frog" -g cads -g emag=1.5 -g apg=4,eta=0',
         "emag generate --prompts prompts.txt --recipe emag+apg -o out",
         'emag generate "a frog" -g emag=1.5 -g cfg=3 -g pcg=1,scale=3',
         kept="finished images are kept in {out_path}; the same command again brings the rest")
def generate(
    prompts: shared.Prompts = None, more_prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None,
    negative: shared.Negative = None, negatives_file: shared.NegativeFile = None,
    model: shared.Model = "tiny", guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8",
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs; for one image also a name that ends in "
                                           ".png.")] = Path("out"),
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4,
    loading: shared.Loading = shared.ANY,
    more: shared.Set = [], as_json: shared.Json = False,  # noqa: B006
) -> None:
    """Generate images. Every PNG carries its recipe; `emag again` makes it again from that.

    Killed, the same command goes on: images that are there, whole and with the same recipe, are not made again. Correctors
    and solvers (-g pcg) are drawn by our own sampling loop, whose images `emag again` cannot make.
    """
    from ..draw.sampling import DrawSettings, jobs

    texts = lines([*(prompts or []), *(more_prompts or [])], prompts_file, "prompt")
    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    work = jobs(texts, negatives, shared.seeds_of(seeds))
    column = shared.column_of(guidance, recipe)
    settings = DrawSettings(steps, scale, height, width, shared.settings_of(more))
    folder, file = file_or_folder(out_path)
    if file and len(work) > 1:
        raise BadValue(f"{file.name} is the name of one image, and {len(work)} are asked for: give a folder")
    pipe = shared.open_pipeline(model, loading)
    draw = _looped if column.own_loop else _piped
    made = draw(pipe, column, work, settings, batch_size, folder, file)
    if as_json:
        shared.show_json({"images": [str(path) for path in made.paths], "run": made.run})
        return
    if made.text:
        err.print(made.text)
    out.print(f"{len(made.paths)} image(s) in {file or folder}" + f", {made.there} of them from before" * bool(made.there))


@dataclass
class _Made:
    """What a command made: files, how many of them were there before, and the statistics of the last call."""

    paths: list[Path]
    there: int = 0
    run: dict[str, Any] | None = None
    text: str = ""


def _piped(pipe: Any, column: Any, work: list[Any], settings: Any, batch_size: int, folder: Path,
            file: Path | None) -> _Made:
    """Calls of the pipeline; what is there already is left."""
    from ..draw.sampling import arguments, batches, draw_images, foreseen

    groups = list(batches(work, batch_size))
    calls, made = [arguments(pipe, group, settings) for group in groups], _Made([])
    with shared.progress(len(calls), "generating") as (on_step, finished):
        for done, (group, call) in enumerate(zip(groups, calls), start=1):
            numbers = [job.seed for job in group]
            kept = [] if file else earlier(folder, foreseen(pipe, call, numbers, column.rules), len(group))
            if not kept:
                images, run = draw_images(pipe, call, numbers, column.rules, on_step)
                made.paths += _written(images, run.record or {}, folder, file)
                made.run, made.text = (run.latest.as_dict(), str(run.latest)) if run.latest else (None, "")
            made.paths, made.there = [*made.paths, *kept], made.there + len(kept)
            finished(done)
    return made


def _looped(pipe: Any, column: Any, work: list[Any], settings: Any, batch_size: int, folder: Path,
            file: Path | None) -> _Made:
    """Runs of our own sampling loop, which cannot be made again: never left out."""
    from ..draw.columns import run
    from ..draw.sampling import batches

    groups, made = [work] if column.joint else list(batches(work, batch_size)), _Made([])
    with shared.progress(len(groups), "generating") as (on_step, finished):
        for done, group in enumerate(groups, start=1):
            outcome = run(pipe, column, group, settings, batch_size, on_step)
            made.paths += _written(list(outcome.images), outcome.records[0], folder, file)
            made.run = {"evaluations": outcome.evaluations}
            made.text = f"{outcome.evaluations} block evaluations per image"
            finished(done)
    return made


def _written(images: list[Any], record: dict[str, Any], folder: Path, file: Path | None) -> list[Path]:
    """The images of one call on disk."""
    from ...records.png import save, write

    return [write(images[0], file, {**record, "row": 0})] if file else save(images, folder, record)


def earlier(folder: Path, record: dict[str, Any], count: int) -> list[Path]:
    """The images of a call, where an earlier command left all of them in a folder, whole and with this very record."""
    from ...records.png import saved

    if record["unrecorded"] or not folder.is_dir():
        return []
    found = [saved(folder, {**record, "row": row}) for row in range(count)]
    return [path for path in found if path] if all(found) else []
