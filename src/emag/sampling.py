"""From prompts, seeds and a guidance to images: what the command line, the demo and `emag again` share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image

from .errors import BadValue, EmagError, Unsupported
from .finite import check_finite
from .guidance import Rule
from .hosts.encoders import label_of
from .hosts.entry import Host
from .hosts.given import Condition
from .hosts.pipeline import Guided, guide
from .hosts.table import lookup

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One image: a prompt (or a class label), what to avoid, and a seed."""

    prompt: str
    negative: str | None
    seed: int


@dataclass(frozen=True)
class Settings:
    """Arguments of the pipeline that all images share; None leaves the pipeline's default.

    scale: the pipeline's own guidance scale (1 switches its CFG off). more: further pipeline arguments by name.
    """

    steps: int | None = None
    scale: float | None = None
    height: int | None = None
    width: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "height", "width"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadValue(f"{name} must be at least 1, got {getattr(self, name)}")
        check_finite("scale", self.scale)


def jobs(prompts: Sequence[str], negatives: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Every prompt with every seed. `negatives`: none, one for all prompts, or one per prompt."""
    if len(negatives) not in (0, 1, len(prompts)):
        raise BadValue(f"got {len(negatives)} negative prompts for {len(prompts)} prompts; give one for all, or one each")
    each: list[str | None] = [*negatives] or [None]
    each = each * len(prompts) if len(each) == 1 else each
    return [Job(prompt, negative, seed) for prompt, negative in zip(prompts, each) for seed in seeds]


def batches(work: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """`work` in groups of at most `size`."""
    rest = iter(work)
    while group := list(islice(rest, size)):
        yield group


def arguments(pipe: Any, group: Sequence[Job], settings: Settings) -> dict[str, Any]:
    """The pipeline arguments of one batch."""
    host = lookup(pipe)
    values: dict[str, Any] = {host.prompt: _prompts(pipe, host, group)}
    negatives = [job.negative for job in group]
    if any(negative is not None for negative in negatives):
        if host.negative_prompt is None:
            raise BadValue(f"{host.name} takes no negative prompt")
        values[host.negative_prompt] = [negative or "" for negative in negatives]
    if not host.sized and (settings.height or settings.width):
        raise BadValue(f"{host.name} has one image size; leave out height and width")
    if host.guider and settings.scale is not None:
        raise BadValue(f"{host.name} has its scale in its {host.guider}: leave the scale out here, or name a rule such as "
                       "cfg=4")
    shared = {"num_inference_steps": settings.steps, host.scale or "guidance_scale": settings.scale,
              "height": settings.height, "width": settings.width, **settings.more}
    return {**values, **{name: value for name, value in shared.items() if value is not None}}


def sample(pipe: Any, call: dict[str, Any], seeds: int | Sequence[int], rules: Sequence[Rule],
           progress: Progress | None = None,
           conditions: Mapping[str, Condition] | None = None) -> tuple[list[Image.Image], Guided]:
    """One call of the pipeline under `rules`, with a fresh CPU generator per seed; its images and the finished run."""
    with guide(pipe, *rules, conditions=conditions) as run:
        run.on_step = progress
        try:
            made = pipe(**call, generator=_generators(seeds))
            if not hasattr(made, "images"):
                raise Unsupported(f"{type(pipe).__name__} makes videos, and this draws pictures: use emag.guide in Python")
            return list(made.images), run
        except EmagError:
            raise
        except torch.OutOfMemoryError as error:
            raise BadValue("out of memory: use a smaller batch size or image, 16-bit weights, or offload") from error
        except (ValueError, TypeError) as error:
            raise BadValue(f"{type(pipe).__name__} refused the call: {str(error).splitlines()[0]}") from error


def _generators(seeds: int | Sequence[int]) -> torch.Generator | list[torch.Generator]:
    if isinstance(seeds, int):
        return torch.Generator().manual_seed(seeds)
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _prompts(pipe: Any, host: Host, group: Sequence[Job]) -> list[Any]:
    if host.prompt != "class_labels":
        return [job.prompt for job in group]
    return [label_of(pipe, job.prompt) for job in group]
