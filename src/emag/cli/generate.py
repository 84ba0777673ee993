"""`emag generate`: images from prompts."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BadValue
from ..evaluate.prompts import read_prompts
from ..images import check_folder, save
from ..sampling import Settings, arguments, batches, jobs, sample
from . import common as shared
from .common import app, err, out


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, or class labels (names or numbers).")] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="File of prompts: txt, csv, json, ...")] = None,
    negative: Annotated[list[str] | None, typer.Option("--negative", help="Negative prompt: one, or one each.")] = None,
    negatives_file: Annotated[Path | None, typer.Option("--negatives", help="File of negative prompts.")] = None,
    model: shared.Model = "tiny", guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8",
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs.")] = Path("out"),
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4, device: shared.Device = None,
    dtype: shared.Dtype = None, offload: shared.Offload = None, lora: shared.Lora = None,
    more: shared.Set = [],  # noqa: B006
) -> None:
    """Generate images. Every PNG carries its recipe; `emag again` makes it again from that."""
    texts = lines(prompts or [], prompts_file, "prompt")
    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    work = jobs(texts, negatives, shared.seeds_of(seeds))
    rules = shared.rules_of(guidance, recipe)
    settings = Settings(steps, scale, height, width, shared.settings_of(more))
    check_folder(folder)
    pipe = shared.open_pipeline(model, device, dtype, offload, lora)
    groups = list(batches(work, batch_size))
    calls = [arguments(pipe, group, settings) for group in groups]
    written = 0
    with shared.progress(len(calls), "generating") as (on_step, finished):
        for done, (group, call) in enumerate(zip(groups, calls), start=1):
            images, run = sample(pipe, call, [job.seed for job in group], rules, on_step)
            written += len(save(images, folder, run.record or {}))
            finished(done)
    if run.stats:
        err.print(str(run.stats), highlight=False)
    out.print(f"{written} image(s) in {folder}", highlight=False)


def lines(given: list[str], path: Path | None, what: str) -> list[str]:
    """Texts from the command and from a file of prompts, which `emag run` reads alike."""
    texts = list(given)
    if path:
        texts += [one.text for one in read_prompts(str(path))]
    if not texts:
        raise BadValue(f'give at least one {what}, e.g. emag generate "a photo of a frog" ("" is the unconditional one)')
    return texts
