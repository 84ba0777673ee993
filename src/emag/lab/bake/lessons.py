"""Lessons on disk, a file a call of the pipeline, and as one set to draw rows from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...errors import BadValue, Unsupported
from ...files import parsed
from ...models import folder
from .teacher import Lesson

HEADER, EACH, ONCE, ALL, GUIDED, IMAGES = "emag_lesson", "each/", "once/", "all/", "guided", "images"


def write_lesson(path: Path, lesson: Lesson, asked: Mapping[str, Any]) -> None:
    """Write a lesson, whole or not at all. asked: what it was asked with, JSON-ready; a reader must ask for the same."""
    rows, first = len(lesson.guided[0]), lesson.inputs[0]
    tensors, plain = {GUIDED: torch.stack(lesson.guided), IMAGES: lesson.images}, {}
    for name, value in first.items():
        every = [inputs[name] for inputs in lesson.inputs]
        if not isinstance(value, torch.Tensor):
            plain[name] = value
        elif all(one.shape == value.shape and torch.equal(one, value) for one in every):
            tensors[(ONCE if value.ndim and len(value) == rows else ALL) + name] = value
        elif not value.ndim or len(value) != rows:
            raise Unsupported(f"{name} changes from step to step and has no row an image: baking draws rows alone")
        else:
            tensors[EACH + name] = torch.stack(every)
    folder.save_tensors(path, tensors, {HEADER: json.dumps({"asked": dict(asked), "plain": plain})})


def read_lesson(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a lesson by name, with its plain values under "plain". Raises `BadValue` where it is another's."""
    try:
        with safe_open(path, "pt") as file:
            facts = parsed((file.metadata() or {})[HEADER])
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        before, plain = dict(facts["asked"]), dict(facts["plain"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadValue(f"{path} is no lesson that can be read: {folder.first_line(error)}; remove it, and it is made again"
                       ) from error
    now = json.loads(json.dumps(dict(asked)))
    changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    if changed:
        raise BadValue(f"{path.parent} holds what another teacher showed ({', '.join(changed)} differ): use the same "
                       "options, or another folder")
    return {**tensors, "plain": plain}


class Lessons:
    """Rows of many lessons: images times steps. Row r is step r % steps of image r // steps.

    shares: how strong the guidance of each part was, of all of it; None is 1. `groups`: the rows of each share.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]], shares: Sequence[float] | None = None):
        self.plain, first = parts[0]["plain"], parts[0]
        names = [name for name in first if name != "plain"]
        for part in parts:
            for name in names:
                if name not in part or part[name].shape[2:] != first[name].shape[2:]:
                    raise Unsupported(f"{name.partition('/')[2] or name} has another shape from call to call: bake with "
                                      "prompts whose network inputs are of one length")
        self.each = {name.removeprefix(EACH): torch.cat([part[name] for part in parts], 1) for name in names
                     if name.startswith(EACH)}
        self.once = {name.removeprefix(ONCE): torch.cat([part[name] for part in parts]) for name in names
                     if name.startswith(ONCE)}
        self.shared = {name.removeprefix(ALL): first[name] for name in names if name.startswith(ALL)}
        self.guided = torch.cat([part[GUIDED] for part in parts], 1)
        self.steps, self.images = self.guided.shape[:2]
        of_row = torch.tensor([share for part, share in zip(parts, shares or [1.0] * len(parts))
                               for _ in range(part[GUIDED].shape[1] * self.steps)], dtype=torch.float64)
        self.groups = {float(share): (of_row == share).nonzero()[:, 0] for share in of_row.unique()}

    def __len__(self) -> int:
        return self.steps * self.images

    def rows(self, pick: torch.Tensor, device: torch.device | None = None) -> tuple[dict[str, Any], torch.Tensor]:
        """Network inputs and guided predictions [n, ...] of the rows numbered `pick` [n]."""
        image, step = pick // self.steps, pick % self.steps
        inputs = {**{name: value[step, image] for name, value in self.each.items()},
                  **{name: value[image] for name, value in self.once.items()}, **self.shared}
        moved = {name: value.to(device) for name, value in inputs.items()}
        return {**moved, **self.plain}, self.guided[step, image].to(device)
