"""What a run would take, going by one batch of each recipe that is not kept."""

from dataclasses import dataclass

from ..draw.columns import run
from . import check
from .folder import RunFolder
from .local import devices_of
from .spec import RunSpec
from .tasks import task
from .work import one_thread, open_model


@dataclass(frozen=True)
class Line:
    """One recipe. images: still to be made. evaluations: of blocks, per image. seconds: per image of one worker."""

    recipe: str
    images: int
    evaluations: int
    seconds: float
    workers: int


def rehearse(spec: RunSpec, workers: int | None = None) -> list[Line]:
    """One line per recipe. Raises what the run would raise before its first image."""
    devices = devices_of(spec.model.device)
    workers = workers or spec.workers or len(devices)
    pipe = open_model(spec.model, devices[0])
    spec = check.prepared(spec, pipe)
    left = _left(spec)
    work = [task(spec, number).job for number in range(min(spec.batch_size, spec.total))]
    with one_thread(devices[0]):
        made = [run(pipe, column, work, spec.settings, len(work)) for column in spec.recipes]
    return [Line(one.column.label, left[one.column.label], one.evaluations, one.seconds / len(work), workers)
            for one in made]


def _left(spec: RunSpec) -> dict[str, int]:
    """Images still to be made, by recipe."""
    folder = RunFolder(spec.out) if spec.out else None
    if folder is None or not folder.exists:
        return {column.label: spec.total for column in spec.recipes}
    held = {name: folder.index(name).num_rows for name in folder.recipes()}
    return {column.label: spec.total - held.get(column.label, 0) for column in spec.recipes}
