"""From prompts, seeds and a guidance to images: what the command line, the demo and `emag again` share."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image

from ...core import Rule, check_finite
from ...errors import BadValue, EmagError, NotFinite, Unsupported
from ...families import Host
from ...families.encode import label_of
from ...hosts.given import Condition
from ...hosts.lookup import host_of
from ...hosts.pipeline import Guided, guide
from ...records.fingerprint import is_data
from ...records.ranges import warn_of_clipped, warn_of_scale
from ...records.seeds import LARGEST, MOST, is_seed
from ...samplers.loop import Progress


@dataclass(frozen=True)
class Job:
    """One image: a prompt (or a class label), what to avoid, and a seed."""

    prompt: str
    negative: str | None
    seed: int

    def __post_init__(self) -> None:
        for text in (self.prompt, self.negative or ""):
            if not is_data(text):
                raise BadValue(f"{text!r} is no text: some of its bytes are not of the terminal's encoding")
        if not is_seed(self.seed):
            raise BadValue(f"a seed is a whole number from 0 to {LARGEST}, got {str(self.seed)[:60]}")


@dataclass(frozen=True)
class DrawSettings:
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
    if len(prompts) * len(seeds) > MOST:
        raise BadValue(f"{len(prompts)} prompts with {len(seeds)} seeds each are more than {MOST} images: make so many with "
                       "emag run, in parts that it keeps count of")
    each: list[str | None] = [*negatives] or [None]
    each = each * len(prompts) if len(each) == 1 else each
    return [Job(prompt, negative, seed) for prompt, negative in zip(prompts, each) for seed in seeds]


def batches(work: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """`work` in groups of at most `size`."""
    rest = iter(work)
    while group := list(islice(rest, size)):
        yield group


def arguments(pipe: Any, group: Sequence[Job], settings: DrawSettings) -> dict[str, Any]:
    """The pipeline arguments of one batch."""
    host = host_of(pipe)
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


def draw_images(pipe: Any, call: dict[str, Any], seeds: int | Sequence[int], rules: Sequence[Rule],
           progress: Progress | None = None, conditions: Mapping[str, Condition] | None = None,
           opened: Callable[[Guided], None] | None = None) -> tuple[list[Image.Image], Guided]:
    """One call of the pipeline under `rules`, with a fresh CPU generator per seed; its images and the finished run.

    opened: called with the run before it begins.
    """
    with guide(pipe, *rules, conditions=conditions) as run, _refused(pipe):
        run.on_step = progress
        if opened is not None:
            opened(run)
        with warnings.catch_warnings():
            # a picture of NaNs is painted black, with a warning of numpy's
            warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
            made = pipe(**call, generator=generators(seeds))
        if not hasattr(made, "images"):
            raise Unsupported(f"{type(pipe).__name__} makes videos, and this draws pictures: use emag.guide in Python")
        _warn(run, call, made.images)
        return list(made.images), run


def foreseen(pipe: Any, call: dict[str, Any], seeds: Sequence[int], rules: Sequence[Rule]) -> dict[str, Any]:
    """The record that `sample` would leave, without the work."""
    with guide(pipe, *rules) as run, _refused(pipe):
        return run.foresee(pipe, **call, generator=generators(seeds))


@contextmanager
def _refused(pipe: Any) -> Iterator[None]:
    try:
        yield
    except EmagError:
        raise
    except RuntimeWarning as error:
        raise NotFinite(f"the images of {type(pipe).__name__} are not finite (infinite values or NaNs): use bfloat16 or "
                        "float32, for the VAE too") from error
    except torch.OutOfMemoryError as error:
        raise BadValue("out of memory: use a smaller batch size or image, 16-bit weights, or offload") from error
    except (ValueError, TypeError) as error:
        raise BadValue(f"{type(pipe).__name__} refused the call: {(str(error).splitlines() or [type(error).__name__])[0]}"
                       ) from error


def _warn(run: Guided, call: Mapping[str, Any], images: Sequence[Any]) -> None:
    """Say what nothing useful comes of, and what looks like it."""
    scale = call.get(run.host.scale or "")
    if isinstance(scale, (int, float)):
        warn_of_scale(f"the pipeline's {run.host.scale}", scale)
    warn_of_clipped(images)


def generators(seeds: int | Sequence[int]) -> torch.Generator | list[torch.Generator]:
    """A CPU generator per seed, or the one of a single seed."""
    if isinstance(seeds, int):
        return torch.Generator().manual_seed(seeds)
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _prompts(pipe: Any, host: Host, group: Sequence[Job]) -> list[Any] | int:
    if host.prompt == "batch_size":
        if any(job.prompt for job in group):
            raise BadValue(f"{host.name} takes no prompt, and makes what it was trained on: say ''")
        return len(group)
    if host.prompt != "class_labels":
        return [job.prompt for job in group]
    return [label_of(pipe, job.prompt) for job in group]
