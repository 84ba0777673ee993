"""A bake from beginning to end, in a folder that it goes on in: lessons, training, held-out error, the adapter."""

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
from .levels import own_scale, weakened, weaker_call
from .teacher import Lesson

PLACE, TRAINING, HEADER = "bake", "training.safetensors", "emag_bake"
SEED = 90
"""Of lessons; those held out come after those learnt from, so that no image is in both."""


@dataclass(frozen=True)
class Teacher:
    """Who is followed: a pipeline under rules, asked for images of `prompts` in turn.

    draw: steps, the pipeline's own scale, size. images, held: to learn from, and to judge by. batch: images in one call.
    times: "trajectory" follows whole runs; "random" asks at random noise levels of what the runs drew. levels: how many
    strengths are shown, from 1 / levels to all of the guidance, a call each in turn.
    """

    pipe: Any
    rules: tuple[Rule, ...]
    prompts: tuple[str, ...]
    draw: DrawSettings
    images: int
    held: int
    batch: int
    times: str
    levels: int = 1

    def share(self, numbers: range) -> float:
        """How strong the guidance of some images is, of all of it."""
        first = numbers.start - (self.images if numbers.start >= self.images else 0)
        count = self.images if numbers.start < self.images else self.held
        return (first // self._size(count) % self.levels + 1) / self.levels

    def _size(self, count: int) -> int:
        return min(self.batch, count // self.levels)

    def asked(self, numbers: range) -> dict[str, Any]:
        """What decides the lesson of some images, as plain data."""
        texts = [self.prompts[at % len(self.prompts)] for at in numbers]
        return {"model": getattr(self.pipe, "emag_source", {}), "rules": recipe.values_of(self.rules), "prompts": texts,
                "first": numbers.start, "times": self.times, "draw": asdict(self.draw),
                **({"share": self.share(numbers)} if self.levels > 1 else {})}

    def call(self, numbers: range, share: float = 1.0) -> tuple[dict[str, Any], list[int]]:
        """The pipeline's arguments for some images, and their seeds."""
        group = [Job(self.prompts[at % len(self.prompts)], None, SEED + at) for at in numbers]
        return weaker_call(self.pipe, arguments(self.pipe, group, self.draw), share), [job.seed for job in group]

    def show(self, numbers: range) -> Lesson:
        """The lesson of some images."""
        share = self.share(numbers)
        call, seeds = self.call(numbers, share)
        rules = weakened(self.rules, share)
        run = teacher.follow(self.pipe, rules, call, seeds)
        if self.times == "trajectory":
            return run
        return self._at_random(rules, call, run.images, len(run.guided), numbers.start)

    def _at_random(self, rules: Sequence[Rule], call: Mapping[str, Any], x0: torch.Tensor, count: int, seed: int) -> Lesson:
        """As many answers at random noise levels of a flow, of what the run drew."""
        rng = torch.Generator().manual_seed(SEED + seed)
        found = []
        for sigma in torch.rand(count, generator=rng).clamp(min=1e-3).tolist():
            noise = torch.randn(x0.shape, generator=rng).to(x0)
            found.append(teacher.answer_at(self.pipe, rules, call, (1 - sigma) * x0 + sigma * noise, sigma))
        return Lesson(tuple(one.inputs[0] for one in found), tuple(one.guided[0] for one in found), x0)

    @property
    def parts(self) -> tuple[Sequence[range], Sequence[range]]:
        """Images of each lesson to learn from, and of each to judge by."""
        later = [range(self.images + part.start, self.images + part.stop)
                 for part in parts_of(self.held, self._size(self.held))]
        return parts_of(self.images, self._size(self.images)), later


def check(one: Teacher) -> None:
    """All that can be refused before the first lesson. Raises `BadValue` and `Unsupported`."""
    if min(one.images, one.held) < 1:
        raise BadValue("give at least one image to learn from, and one to judge by")
    if min(one.images, one.held) < one.levels or one.levels < 1:
        raise BadValue(f"levels must be at least 1, with an image of each to learn from and to judge by; got {one.levels}")
    teacher.check_times(one.pipe, one.rules, one.times)
    if one.times == "random":
        teacher.check_random(one.pipe)
    active = [rule for rule in teacher.filled(one.pipe, one.rules) if not rule.neutral]
    if not active and (one.draw.scale is None or _scale(one) is None):
        raise BadValue("there is no guidance to bake in: name rules, e.g. -g emag=1.5 -g cfg=4, or a --scale above 1")
    if one.levels > 1:
        check_range(one)
    teacher.check_pipeline(one.pipe, one.call(range(1))[0])


def check_range(one: Teacher) -> None:
    """Raise `BadValue` where the guidance has no one scale above 1, or does not go off with it."""
    weakened(teacher.filled(one.pipe, one.rules), 0.0)
    scale = _facts(one)["baked_scale"]
    if scale is None or scale <= 1:
        raise BadValue("a range of scales goes up from 1: name a rule that combines, e.g. -g cfg=4, or a --scale above 1")


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
    shares = [one.share(numbers) for numbers in [*learnt, *held]]
    count = len(learnt)
    return Lessons(read[:count], shares[:count]), Lessons(read[count:], shares[count:])


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
    facts = _facts(one, levels=one.levels, objective="agd", times=one.times, steps=baker.lessons.steps,
                   null="as it was before: the adapter learnt conditional rows alone", images=baker.lessons.images,
                   held_out=asdict(found), model=getattr(one.pipe, "emag_source", {}).get("model"))
    return write_adapter(out, baker.network, host_of(one.pipe).denoiser, facts), found


def _facts(one: Teacher, **more: Any) -> dict[str, Any]:
    shift = host_of(one.pipe).as_cfg(0.0)
    return baked_facts(teacher.filled(one.pipe, one.rules), _scale(one), one.levels > 1, shift, **more)


def _scale(one: Teacher) -> float | None:
    """The scale of the pipeline's own guidance in the lessons; None where it had none."""
    return own_scale(one.pipe, one.call(range(1))[0])


def settings_of(rank: int, iterations: int, rows: int, lr: float, seed: int) -> BakeSettings:
    """Settings of a training. Raises `BadValue`."""
    if min(rank, iterations, rows) < 1 or not 0 < lr < 1:
        raise BadValue(f"rank, iterations and rows are at least 1, and lr between 0 and 1; got {rank}, {iterations}, {rows} "
                       f"and {lr}")
    return BakeSettings(rank, iterations, rows, lr, seed)
