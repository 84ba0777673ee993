"""Makes one batch of a run and stores it: the work that every engine hands out."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from PIL import Image, PngImagePlugin

from ...records.record import versions
from ..draw.columns import Outcome, run
from .folder import RunFolder
from .spec import Model
from .tasks import Batch, Task, task

KEY = "emag-run"
Make = Callable[[Batch], int]


def open_model(model: Model, device: str | None = None) -> Any:
    """The pipeline of a run, on `device` or the model's own, its progress bar off."""
    from ...hosts.load import load

    pipe = load(model.id, device=device or model.device, dtype=model.dtype, offload=cast(Any, model.offload),
                lora=model.lora, revision=model.revision, base=model.base, pipeline=model.pipeline, gguf=model.gguf,
                variant=model.variant)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def maker(folder: RunFolder, pipe: Any) -> Make:
    """A function that makes a batch, stores it and says how many images it had."""
    common = {"model": folder.spec.model.id, "versions": json.dumps(versions())}

    def make(batch: Batch) -> int:
        tasks = [task(folder.spec, number) for number in batch.numbers]
        made = draw(folder, pipe, batch, tasks)
        rows = [{**common, **_row(made, at, one)} for at, one in enumerate(tasks)]
        mark = {"recipe": batch.recipe, "run": folder.run["run"]}
        images = [png(image, {**mark, "number": one.number, "seed": one.seed}) for image, one in zip(made.images, tasks)]
        folder.commit(batch.recipe, rows, images)
        return len(rows)

    return make


def draw(folder: RunFolder, pipe: Any, batch: Batch, tasks: list[Task]) -> Outcome:
    """The images of a batch, not stored."""
    return run(pipe, folder.recipe_of(batch.recipe), [one.job for one in tasks], folder.spec.settings, len(tasks))


def png(image: Image.Image, mark: dict[str, Any]) -> bytes:
    """An image as a PNG that says in few bytes where it belongs."""
    info, sink = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text(KEY, json.dumps(mark))
    image.save(sink, format="PNG", pnginfo=info)
    return sink.getvalue()


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On a CPU, one thread per worker: so the number of workers and cores does not change how sums are rounded."""
    before = torch.get_num_threads()
    set_one_thread(device)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_one_thread(device: str) -> None:
    """The same for the rest of the process."""
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)


def _row(made: Outcome, at: int, one: Task) -> dict[str, Any]:
    return {"number": one.number, "prompt": one.prompt.text, "category": one.prompt.category, "class": one.prompt.label,
            "seed": one.seed, "picks": _picks(made, at), "evaluations": made.evaluations,
            "seconds": made.seconds / len(made.images)}


def _picks(made: Outcome, at: int) -> list[int | None] | None:
    """The blocks picked for image `at`, evaluation by evaluation; None where nothing picks."""
    rows = made.stats[0].picks if made.stats else ()
    return [None if row is None else row[at] for row in rows] if any(row is not None for row in rows) else None
