"""A bake from beginning to end, in a folder that it goes on in: lessons, training, held-out error, the adapter."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...core import Rule
from ...errors import BadValue
from ...files import parsed
from ...hosts.lookup import host_of
from ...models import folder
from ...records import recipe
from ...records.baked import baked_facts
from ..draw.sampling import DrawSettings, Job, arguments
from . import teacher
from .adapter import write_adapter
from .baker import Baker, BakeSettings, HeldOut, held_out, parts_of
from .lessons import IMAGES, Lessons, read_lesson, write_lesson
from .teacher import Lesson

PLACE, TRAINING, HEADER = "bake", "training.safetensors", "emag_bake"
SEED = 90
"""Of lessons; those held out come after those learnt from, so that no image is in both."""


@dataclass(frozen=True)
class Teacher:
    """Who is followed: a pipeline under rules, asked for images of `prompts` in turn.

    draw: steps, the pipeline's own scale, size. images, held: to learn from, and to judge by. batch: images in one call.
    times: "trajectory" follows whole runs; "random" asks at random noise levels of what the runs drew.
    """

    pipe: Any
    rules: tuple[Rule, ...]
    prompts: tuple[str, ...]
    draw: DrawSettings
    images: int
    held: int
    batch: int
    times: str

    def asked(self, numbers: range) -> dict[str, Any]:
        """What decides the lesson of some images, as plain data."""
        texts = [self.prompts[at % len(self.prompts)] for at in numbers]
        return {"model": getattr(self.pipe, "emag_source", {}), "rules": recipe.values_of(self.rules), "prompts": texts,
                "first": numbers.start, "times": self.times, "draw": asdict(self.draw)}

    def call(self, numbers: range) -> tuple[dict[str, Any], list[int]]:
        """The pipeline's arguments for some images, and their seeds."""
        group = [Job(self.prompts[at % len(self.prompts)], None, SEED + at) for at in numbers]
        return arguments(self.pipe, group, self.draw), [job.seed for job in group]

    def show(self, numbers: range) -> Lesson:
        """The lesson of some images."""
        call, seeds = self.call(numbers)
        run = teacher.follow(self.pipe, self.rules, call, seeds)
        return run if self.times == "trajectory" else self._at_random(call, run.images, len(run.guided), numbers.start)

    def _at_random(self, call: Mapping[str, Any], x0: torch.Tensor, count: int, seed: int) -> Lesson:
        """As many answers at random noise levels of a flow, of what the run drew."""
        rng = torch.Generator().manual_seed(SEED + seed)
        found = []
        for sigma in torch.rand(count, generator=rng).clamp(min=1e-3).tolist():
            noise = torch.randn(x0.shape, generator=rng).to(x0)
            found.append(teacher.answer_at(self.pipe, self.rules, call, (1 - sigma) * x0 + sigma * noise, sigma))
        return Lesson(tuple(one.inputs[0] for one in found), tuple(one.guided[0] for one in found), x0)

    @property
    def parts(self) -> tuple[Sequence[range], Sequence[range]]:
        """Images of each lesson to learn from, and of each to judge by."""
        later = [range(self.images + part.start, self.images + part.stop) for part in parts_of(self.held, self.batch)]
        return parts_of(self.images, self.batch), later


def check(one: Teacher) -> None:
    """All that can be refused before the first lesson. Raises `BadValue` and `Unsupported`."""
    if min(one.images, one.held) < 1:
        raise BadValue("give at least one image to learn from, and one to judge by")
    teacher.check_times(one.pipe, one.rules, one.times)
    if one.times == "random":
        teacher.check_random(one.pipe)
    active = [rule for rule in teacher.filled(one.pipe, one.rules) if not rule.neutral]
    if not active and (one.draw.scale is None or _scale(one, host_of(one.pipe)) is None):
        raise BadValue("there is no guidance to bake in: name rules, e.g. -g emag=1.5 -g cfg=4, or a --scale above 1")
    teacher.check_pipeline(one.pipe, one.call(range(1))[0])


def lessons(one: Teacher, out: Path, finished: Callable[[int], None] = lambda done: None) -> tuple[Lessons, Lessons]:
    """The lessons to learn from and those held out, made where they are not in `out` yet. finished: told after each."""
    learnt, held = one.parts
    read = []
    for done, numbers in enumerate([*learnt, *held], start=1):
        path = out / PLACE / f"{numbers.start:06d}.safetensors"
        if not path.is_file():
            write_lesson(path, one.show(numbers), one.asked(numbers))
        read.append(read_lesson(path, one.asked(numbers)))
        finished(done)
    for part in read:
        del part[IMAGES]
    return Lessons(read[:len(learnt)]), Lessons(read[len(learnt):])


def save(baker: Baker, out: Path) -> None:
    """Write what a training needs to go on."""
    facts = {"step": baker.step, "settings": baker.facts(), "rows": len(baker.lessons)}
    folder.save_tensors(out / PLACE / TRAINING, baker.tensors(), {HEADER: json.dumps(facts)})


def restore(baker: Baker, out: Path) -> bool:
    """Go on where the training in `out` stopped; False where there is none. Raises `BadValue` where it is another's."""
    path = out / PLACE / TRAINING
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            facts = parsed((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        before, step = {**facts["settings"], "lessons": facts["rows"]}, int(facts["step"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadValue(f"{path} is no training that can be read: {folder.first_line(error)}") from error
    now = {**baker.facts(), "lessons": len(baker.lessons)}
    changed = [f"{name}={before.get(name)}" for name in now if before.get(name) != now[name]]
    if changed:
        raise BadValue(f"{out} holds a training with {', '.join(changed)}; use the same options, or another folder")
    baker.fill(tensors, step)
    return True


def finish(one: Teacher, baker: Baker, held: Lessons, out: Path) -> tuple[Path, HeldOut]:
    """Judge the adapter on what was held out, and write it with all that is to be known of it."""
    found = held_out(baker.network, held, baker.device)
    host = host_of(one.pipe)
    scale = _scale(one, host)
    rules = teacher.filled(one.pipe, one.rules)
    facts = baked_facts(rules, scale, null="as it was before: the adapter learnt conditional rows alone", objective="agd",
                        times=one.times, steps=baker.lessons.steps, images=baker.lessons.images, held_out=asdict(found),
                        model=getattr(one.pipe, "emag_source", {}).get("model"))
    return write_adapter(out, baker.network, host.denoiser, facts), found


def _scale(one: Teacher, host: Any) -> float | None:
    """The scale of the pipeline's own guidance in the lessons; None where it had none."""
    bound = inspect.signature(type(one.pipe).__call__).bind(one.pipe, **one.call(range(1))[0])
    bound.apply_defaults()
    return float(bound.arguments[host.scale]) if host.guides(bound.arguments) else None


def settings_of(rank: int, iterations: int, rows: int, lr: float, seed: int) -> BakeSettings:
    """Settings of a training. Raises `BadValue`."""
    if min(rank, iterations, rows) < 1 or not 0 < lr < 1:
        raise BadValue(f"rank, iterations and rows are at least 1, and lr between 0 and 1; got {rank}, {iterations}, {rows} "
                       f"and {lr}")
    return BakeSettings(rank, iterations, rows, lr, seed)
