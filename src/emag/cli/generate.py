"""`emag generate`: images from prompts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadValue
from ..images import check_folder, save, saved
from ..sampling import Settings, arguments, batches, foreseen, jobs, sample
from . import common as shared
from .common import app, err, out


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, or class labels (names or numbers).")] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="Text file with one prompt per line.")] = None,
    negative: Annotated[list[str] | None, typer.Option("--negative", help="Negative prompt: one, or one each.")] = None,
    negatives_file: Annotated[Path | None, typer.Option("--negatives", help="Text file of negative prompts.")] = None,
    model: shared.Model = "tiny", guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8",
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs.")] = Path("out"),
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4, device: shared.Device = None,
    dtype: shared.Dtype = None, offload: shared.Offload = None, lora: shared.Lora = None,
    more: shared.Set = [],  # noqa: B006
) -> None:
    """Generate images. Every PNG carries its recipe; `emag again` makes it again from that.

    Killed, the same command goes on: images that are there, whole and with the same recipe, are not made again.
    """
    texts = lines(prompts or [], prompts_file, "prompt")
    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    work = jobs(texts, negatives, shared.seeds_of(seeds))
    rules = shared.rules_of(guidance, recipe)
    settings = Settings(steps, scale, height, width, shared.settings_of(more))
    check_folder(folder)
    pipe = shared.open_pipeline(model, device, dtype, offload, lora)
    groups = list(batches(work, batch_size))
    calls = [arguments(pipe, group, settings) for group in groups]
    written, there, stats = 0, 0, None
    with shared.progress(len(calls), "generating") as (on_step, finished):
        for done, (group, call) in enumerate(zip(groups, calls), start=1):
            numbers = [job.seed for job in group]
            if finished_before(folder, foreseen(pipe, call, numbers, rules), len(group)):
                there += len(group)
            else:
                images, run = sample(pipe, call, numbers, rules, on_step)
                written += len(save(images, folder, run.record or {}))
                stats = run.stats
            finished(done)
    if stats:
        err.print(str(stats), highlight=False)
    out.print(f"{written + there} image(s) in {folder}" + f", {there} of them from before" * bool(there), highlight=False)


def finished_before(folder: Path, record: dict[str, Any], count: int) -> bool:
    """True where all images of a call lie in a folder, whole and with this very record: an earlier command made them."""
    told = folder.is_dir() and not record["unrecorded"]
    return told and all(saved(folder, {**record, "row": row}) for row in range(count))


def lines(given: list[str], path: Path | None, what: str) -> list[str]:
    """Texts from the command and from a file's lines; blank lines of a file are skipped."""
    texts = list(given)
    if path:
        try:
            texts += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise BadValue(f"cannot read the {what}s in {path}: {error}") from None
    if not texts:
        raise BadValue(f'give at least one {what}, e.g. emag generate "a photo of a frog" ("" is the unconditional one)')
    return texts
