"""Blocks and scale of a weak branch by the exact measures of a world: how many prompts it gets right, and what it spoils."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...core import Rule
from ...engine.reading import read_network
from ...errors import BadValue
from ...hosts.lookup import denoisers, host_of
from ..draw.columns import Column, run
from ..draw.sampling import DrawSettings, Job
from ..evaluate.metrics.extractors import EXTRACTORS
from ..evaluate.metrics.paired import paired_p

BATCH = 20


@dataclass(frozen=True)
class Tried:
    """A setting and what it measured. layers: None for no rule at all. correct: share of prompts that are right; residual:
    dB to the nearest image of the world, less is cleaner. right: of each image, whether it is right."""

    layers: tuple[int, ...] | None
    scale: float | None
    correct: float
    residual: float
    right: tuple[bool, ...] = ()

    @property
    def rank(self) -> tuple[float, float]:
        """More is better: obedience first, then fewer artifacts."""
        return self.correct, -self.residual


def choose(pipe: Any, rule: Rule, work: Sequence[Job], settings: DrawSettings, scales: Sequence[float],
           tried: Callable[[int, int], None] = lambda done, total: None) -> list[Tried]:
    """The setting without the rule, then each block alone at the rule's own scale, then the best of them at `scales`.

    Raises `BadValue` for a rule without layers or scale, before any image.
    """
    names = {one.name for one in fields(rule)}
    if rule.kind != "weak" or not {"layers", "scale"} <= names:
        raise BadValue(f"{rule.name} is no weak branch on layers with a scale, so there is nothing to choose")
    depth = read_network(denoisers(pipe, host_of(pipe))[0]).depth
    own = getattr(rule, "scale", None)
    others = [scale for scale in scales if scale != own]  # the rule's own is tried with the blocks
    total, found = 1 + depth + len(others), []

    def add(layers: tuple[int, ...] | None, scale: float | None) -> None:
        given = {"layers": layers, **({} if scale is None else {"scale": scale})}
        rules = () if layers is None else (replace(rule, **given),)
        found.append(Tried(layers, scale, *_judged(pipe, rules, work, settings)))
        tried(len(found), total)

    add(None, None)
    for block in range(depth):
        add((block,), own)
    layers = max(found[1:], key=lambda one: one.rank).layers
    for scale in others:
        add(layers, scale)
    return found


def _judged(pipe: Any, rules: tuple[Rule, ...], work: Sequence[Job], settings: DrawSettings
            ) -> tuple[float, float, tuple[bool, ...]]:
    made = run(pipe, Column("tried", rules), work, settings, BATCH)
    seen = EXTRACTORS["judge"]("cpu")(np.stack([np.asarray(one) for one in made.images]), [job.prompt for job in work])
    right = seen["right"] == 1
    return float(right.mean()), float(seen["residual"].mean()), tuple(right.tolist())


def entry(rule: Rule, found: Sequence[Tried], model: str, images: int) -> dict[str, Any]:
    """A table entry: the best of what was tried with the rule, whether that helps, and where it comes from.

    p: of the best one getting as many prompts right as no rule by chance, McNemar's exact one times the settings tried.
    """
    without, *rest = found
    best = max(rest, key=lambda one: one.rank)
    p = min(1.0, len(rest) * paired_p(np.array(best.right, bool), np.array(without.right, bool)))
    values = {"layers": list(best.layers or ()), **({} if best.scale is None else {"scale": best.scale})}
    return {"model": model, "method": rule.name, "values": values, "correct": best.correct, "residual": best.residual,
            "helps": best.rank > without.rank, "p": float(f"{p:.3g}"),
            "source": f"emag calibrate --world: most prompts right of {len(rest)} settings on {images} images each",
            "tried": [{"layers": None if one.layers is None else list(one.layers), "scale": one.scale,
                       "correct": one.correct, "residual": one.residual} for one in found]}
