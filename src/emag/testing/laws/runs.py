"""Runs of small pipelines under a trial, each made once however many laws look at it."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch

from ...core import Rule
from ...hosts.pipeline import guide
from ..outside import changes, counted, snapshot
from ..small import CASES, generators
from ..small_head import HEADED
from .trial import Trial

SEEDS = (8, 9)
LAWFUL = {**CASES, HEADED.name: HEADED}
"""Small pipelines that a trial may name."""


@dataclass(frozen=True)
class Seen:
    """A guided pipeline: two runs under the rules, and what was there before and after."""

    first: torch.Tensor
    """The images of a run, [samples, ...], latents."""
    second: torch.Tensor
    """Those of another run with the same seeds."""
    stats: Any
    """What the first run says of itself."""
    counted: int
    """Rows that blocks evaluated in the first run, counted from outside."""
    generators: tuple[torch.Tensor, ...]
    """States of the user's generators after the first run, and torch's own before and after it."""
    changed: list[str] = field(default_factory=list)
    """Names of what is another object after the block than before it."""
    after: torch.Tensor | None = None
    """The images of a plain run after it."""


def _seen(case_name: str, rules: tuple[Rule, ...], more: dict[str, Any]) -> Seen:
    case, given = LAWFUL[case_name], generators(SEEDS)
    pipe = case.pipe()
    case.run(pipe, num_inference_steps=2)  # sets what every call leaves on a pipeline
    before, random = snapshot(pipe), torch.get_rng_state()
    with guide(pipe, *rules, **more) as handle:
        with counted(pipe) as rows:
            first, stats = case.run(pipe, generator=given), handle.stats
        states = (*(one.get_state() for one in given), random, torch.get_rng_state())
        second = case.run(pipe)
    after = snapshot(pipe)
    return Seen(first, second, stats, rows(), states, changes(before, after, own=False), case.run(pipe))


@lru_cache(maxsize=64)
def plain(case_name: str, unguided: bool = False) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The images of the pipeline itself, its own guidance off where `unguided`; the states of its generators after it."""
    case, given = LAWFUL[case_name], generators(SEEDS)
    off = {case.scale: 1.0} if unguided else {}
    images = case.run(case.pipe(), SEEDS, generator=given, **off)
    return images, tuple(one.get_state() for one in given)


@dataclass(frozen=True, eq=False)
class Runs:
    """What the laws look at, of one trial on one small pipeline."""

    trial: Trial
    case: str

    def images(self, rules: tuple[Rule, ...], seeds: tuple[int, ...] = SEEDS, **more: Any) -> torch.Tensor:
        """Latents that the pipeline makes under `rules`."""
        pipe = LAWFUL[self.case].pipe()
        with guide(pipe, *rules, **more):
            return LAWFUL[self.case].run(pipe, seeds)

    @cached_property
    def guided(self) -> Seen:
        return _seen(self.case, self.trial.rules, dict(self.trial.more))

    @cached_property
    def alone(self) -> torch.Tensor:
        """The second sample, made by itself."""
        return self.images(self.trial.rules, SEEDS[1:], **dict(self.trial.more))

    @cached_property
    def without(self) -> torch.Tensor:
        """The guidance without its last rule."""
        before = self.trial.rules[:-1]
        return self.images(before) if before else plain(self.case)[0]

    @cached_property
    def neutral(self) -> torch.Tensor:
        """The rule switched off."""
        return self.images(self.trial.neutral or (), **dict(self.trial.more))


@lru_cache(maxsize=4)  # laws on one trial and pipeline are held one after the other
def runs(trial: Trial, case: str) -> Runs:
    return Runs(trial, case)
