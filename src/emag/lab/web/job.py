"""One run of the page: the pipeline alone, guided, and the weak branch, of the same prompt and seeds."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from ...core import Branches, Rule, Step
from ...engine.stats import Stats
from ...engine.undo import Undo, patch, undone
from ...errors import BadValue
from ...hosts.pipeline import Guided
from ...records.seeds import is_seed
from ..draw.alone import weak_alone
from ..draw.remake import MOST_STEPS
from ..draw.sampling import DrawSettings, Job, arguments, draw_images
from .model import Model
from .stack import Rules
from .watch import Stopped, Watch, watched

MOST_IMAGES, MOST_PIXELS, LONGEST = 16, 2048, 4000
"""Images of one run, pixels along a side, and characters of a prompt: what a page may ask a machine for."""
Tell = Callable[[str, int, int, Image.Image | None], None]
"""Called with what is drawn, its step, its number of steps, and the picture so far or None."""


@dataclass(frozen=True)
class Ask:
    """What a person asks for. Raises `BadValue` for what is out of range."""

    prompt: str
    rules: Rules = ()
    negative: str | None = None
    seeds: tuple[int, ...] = (8,)
    settings: DrawSettings = field(default_factory=DrawSettings)

    def __post_init__(self) -> None:
        settings = self.settings
        if max(len(self.prompt), len(self.negative or "")) > LONGEST:
            raise BadValue(f"a prompt has at most {LONGEST} characters here")
        if not 0 < len(self.seeds) <= MOST_IMAGES or not all(map(is_seed, self.seeds)):
            raise BadValue(f"give 1 to {MOST_IMAGES} seeds, whole numbers of at least 0, e.g. 8-11")
        if (settings.steps or 1) > MOST_STEPS or max(settings.height or 1, settings.width or 1) > MOST_PIXELS:
            raise BadValue(f"at most {MOST_STEPS} steps and {MOST_PIXELS} pixels along a side are drawn here")

    @property
    def jobs(self) -> list[Job]:
        """One image per seed."""
        return [Job(self.prompt, self.negative, seed) for seed in self.seeds]


@dataclass(frozen=True)
class Drawing:
    """Images of one guidance, a record each, and what the run did. sizes: see `Sizes`."""

    images: tuple[Image.Image, ...]
    records: tuple[dict[str, Any], ...]
    stats: Stats | None = None
    sizes: dict[str, tuple[float | None, ...]] = field(default_factory=dict)


class Sizes:
    """How far each rule moves the prediction: |after - before| / |before| in its space, by rule and step, mean of images."""

    def __init__(self, undo: Undo):
        self.undo, self.held = undo, []  # type: ignore[var-annotated]

    def opened(self, run: Guided) -> None:
        """Measure the rules of a run. They are copies of its own, so nobody else's rule is changed."""
        run.active = tuple(replace(rule) for rule in run.active)
        for rule in run.active:
            found: dict[int, torch.Tensor] = {}
            self.held.append((rule.name, found))
            patch(self.undo, rule, "apply", partial(_measured, rule.apply, found))

    def read(self, steps: int) -> dict[str, tuple[float | None, ...]]:
        """By the rule's place and name, a number for each step, None where it did nothing. The device is waited for here."""
        return {f"{at + 1} {name}": tuple(float(found[i]) if i in found else None for i in range(steps))
                for at, (name, found) in enumerate(self.held) if found}


def _measured(apply: Callable[..., torch.Tensor], found: dict[int, torch.Tensor], pred: torch.Tensor, branches: Branches,
              step: Step, state: dict[str, Any]) -> torch.Tensor:
    new = apply(pred, branches, step, state)
    if new is not pred:
        size = pred.flatten(1).norm(dim=1).clamp(min=1e-12)
        found[step.index] = ((new - pred).flatten(1).norm(dim=1) / size).mean().detach()
    return new


def draw(model: Model, ask: Ask, rules: Sequence[Rule], what: str, tell: Tell, stop: threading.Event) -> Drawing:
    """The images of one guidance, in one call of the pipeline. Raises `Stopped`, and as `emag.guide` does."""
    call = arguments(model.pipe, ask.jobs, ask.settings)
    whole = model.call(ask.jobs[0], ask.settings)
    model.check(rules, whole)
    twice = not model.host.doubled and model.host.guides(whole)
    watch = Watch(model, partial(tell, what), stop.is_set, 2 if twice else 1, len(ask.seeds))

    def work(undo: Undo) -> Drawing:
        sizes = Sizes(undo)
        with watched(watch):
            made, run = draw_images(model.pipe, call, list(ask.seeds), rules, opened=sizes.opened)
        records = tuple({**(run.record or {}), "row": row} for row in range(len(made)))
        return Drawing(tuple(made), records, run.latest, sizes.read(run.latest.steps if run.latest else 0))

    return undone(work)


@dataclass(frozen=True)
class Sight:
    """The pipeline alone, guided, and the weak branch; the last is None where nothing is pushed away from."""

    ask: Ask
    plain: Drawing
    guided: Drawing
    weak: Drawing | None = None


def weak_of(rules: Rules) -> tuple[Rule, ...] | None:
    """The first weak branch of a guidance alone."""
    at = next((at for at, rule in enumerate(rules) if rule.kind == "weak"), None)
    return None if at is None else weak_alone(rules[:at + 1])


def see(model: Model, ask: Ask, tell: Tell, stop: threading.Event) -> Sight:
    """Draw all three, with the same seeds."""
    with alone(model, stop):
        model.check(ask.rules, model.call(ask.jobs[0], ask.settings))
        plain = draw(model, ask, (), "plain", tell, stop)
        guided = draw(model, ask, ask.rules, "guided", tell, stop) if ask.rules else plain
        weak = weak_of(ask.rules)
        return Sight(ask, plain, guided, draw(model, ask, weak, "weak", tell, stop) if weak else None)


@contextmanager
def alone(model: Model, stop: threading.Event) -> Iterator[None]:
    """While it lasts, nobody else draws with the model; whoever waits can still be stopped."""
    while not model.lock.acquire(timeout=0.1):
        if stop.is_set():
            raise Stopped("stopped while waiting for the model")
    try:
        yield
    finally:
        model.lock.release()
