"""Does a method work on a pipeline? Tried, and told: works, unsupported or no effect, with the reason."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ...errors import EmagError, NoEffect
from ...hosts.pipeline import guide
from ...testing.small import MATRIX, Case, noise
from ..draw.columns import Column
from ..draw.showcase import OTHER, columns
from .finding import Finding

KINDS = ("condition", "weak", "null", "attention", "combining", "after", "energy")
"""Kinds of methods that act on a pipeline: schedules and samplers do not depend on it."""

SECOND = ("autoguidance: autoguidance=2", "sine: sine=0.7,source=cond", "domain: domain", "priors: priors",
          "personalization: personalization=base", "rlg: rlg=1.6,model=base", "unguide: unguide=-1,model=base",
          "hm-cfg: hm-cfg=4,base_scale=2", "core2: core2=1.5,model=base")
"""Methods that need a second network, which the small ones have."""

MODELS = ("guide", "tuned", "pretrained", "base")

Drive = Callable[[Any], torch.Tensor]


def diagnose(pipe: Any, call: Drive, backbone: str, methods: Sequence[Column], conditions: Mapping[str, Any] | None = None,
             models: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Try each method on a pipeline; `call` makes images as a tensor. The pipeline is left as it was."""
    with _quietly():
        plain = call(pipe)
        for column in methods:
            yield _tried(pipe, call, backbone, column, plain, conditions or {}, models or {})


def tried(kinds: Sequence[str] = KINDS) -> list[Column]:
    """One column per method to try."""
    return [*columns(kinds), *map(Column.parse, SECOND)]


def _tried(pipe: Any, call: Drive, backbone: str, column: Column, plain: torch.Tensor, conditions: Mapping[str, Any],
           models: Mapping[str, Any]) -> Finding:
    try:
        with _quietly(), guide(pipe, *column.rules, conditions=conditions, models=models) as run:
            made = call(pipe)
    except NoEffect as error:
        return Finding(column.label, backbone, "no-effect", reason=str(error))
    except EmagError as error:
        return Finding(column.label, backbone, "unsupported", reason=str(error))
    effect = float((made - plain).norm() / plain.norm())
    cost = run.latest.evaluations / run.latest.clean if run.latest else 1.0
    if effect == 0 or not made.isfinite().all():
        return Finding(column.label, backbone, "no-effect", effect, cost, "the image is the one without it")
    return Finding(column.label, backbone, "works", effect, cost)


def matrix(names: Sequence[str] = tuple(MATRIX), kinds: Sequence[str] = KINDS) -> Iterator[Finding]:
    """Every method on every small pipeline: joint, separate and no text; one call, two calls, distilled."""
    for name in names:
        case = MATRIX[name]
        pipe = case.pipe()
        yield from diagnose(pipe, partial(_run, case), name, [_sure(c) for c in tried(kinds)], _other(case),
                            dict.fromkeys(MODELS, case.pipe(seed=1).transformer))


def _run(case: Case, pipe: Any) -> torch.Tensor:
    return case.run(pipe, seeds=(8,))


def _sure(column: Column) -> Column:
    """A method that decides from the predictions, set so that it decides at once: random networks agree on nothing."""
    return Column.parse("ag: ag=-2") if column.label == "ag" else column


def _other(case: Case) -> dict[str, Any]:
    """A further condition for a small pipeline, as tensors: they have no text encoders."""
    if case.name.startswith("dit"):
        return {OTHER: {"class_labels": torch.tensor([3])}}
    pooled = {} if case.name.startswith(("pixart", "sigma")) else {"pooled_projections": noise(71, 1, 10)}
    return {OTHER: {"encoder_hidden_states": noise(70, 1, 5, 12), **pooled}}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the line about the host's scale, which every combining rule would print."""
    log = logging.getLogger("emag")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
