"""`emag generate`: images from prompts."""

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
         kept="finished images are kept in {out_path}; the same command again brings the rest")
def generate(
    prompts: shared.Prompts = None, more_prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None,
    negative: shared.Negative = None, negatives_file: shared.NegativeFile = None,
    model: shared.Model = "tiny", guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8",
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs; for one image also a name that ends in "
                                           ".png.")] = Path("out"),
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4, device: shared.Device = None,
    dtype: shared.Dtype = None, offload: shared.Offload = None, lora: shared.Lora = None,
    more: shared.Set = [], as_json: shared.Json = False,  # noqa: B006
) -> None:
    """Generate images. Every PNG carries its recipe; `emag again` makes it again from that.

    Killed, the same command goes on: images that are there, whole and with the same recipe, are not made again.
    """
    from ...records.png import save, write
    from ..draw.sampling import DrawSettings, arguments, batches, draw_images, foreseen, jobs

    texts = lines([*(prompts or []), *(more_prompts or [])], prompts_file, "prompt")
    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    work = jobs(texts, negatives, shared.seeds_of(seeds))
    rules = shared.rules_of(guidance, recipe)
    settings = DrawSettings(steps, scale, height, width, shared.settings_of(more))
    folder, file = file_or_folder(out_path)
    if file and len(work) > 1:
        raise BadValue(f"{file.name} is the name of one image, and {len(work)} are asked for: give a folder")
    pipe = shared.open_pipeline(model, device, dtype, offload, lora)
    groups = list(batches(work, batch_size))
    calls = [arguments(pipe, group, settings) for group in groups]
    written: list[Path] = []
    there, stats = 0, None
    with shared.progress(len(calls), "generating") as (on_step, finished):
        for done, (group, call) in enumerate(zip(groups, calls), start=1):
            numbers = [job.seed for job in group]
            kept = [] if file else earlier(folder, foreseen(pipe, call, numbers, rules), len(group))
            if not kept:
                images, run = draw_images(pipe, call, numbers, rules, on_step)
                record, stats = run.record or {}, run.latest
                written += [write(images[0], file, {**record, "row": 0})] if file else save(images, folder, record)
            written, there = [*written, *kept], there + len(kept)
            finished(done)
    if as_json:
        shared.show_json({"images": [str(path) for path in written], "run": stats.as_dict() if stats else None})
        return
    if stats:
        err.print(str(stats))
    out.print(f"{len(written)} image(s) in {file or folder}" + f", {there} of them from before" * bool(there))


def earlier(folder: Path, record: dict[str, Any], count: int) -> list[Path]:
    """The images of a call, where an earlier command left all of them in a folder, whole and with this very record."""
    from ...records.png import saved

    if record["unrecorded"] or not folder.is_dir():
        return []
    found = [saved(folder, {**record, "row": row}) for row in range(count)]
    return [path for path in found if path] if all(found) else []
