"""Metrics by class and by category of the prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import BadValue
from ..folder import RunFolder
from ..metrics.bootstrap import Statistic
from ..metrics.extractors import EXTRACTORS
from ..metrics.features import Images, features
from ..metrics.measure import Result
from ..metrics.table import METRICS, Sample
from .stored import by_name

MOST = 60


@dataclass(frozen=True)
class Row:
    """A group, its images, and for each recipe the mean as text and as a share of the table's range; None: no image."""

    name: str
    images: int
    cells: list[tuple[str, float] | None]


@dataclass(frozen=True)
class Breakdown:
    """A metric of each recipe in the groups `by` of the images. left_out: groups that differ less between recipes."""

    metric: str
    by: str
    recipes: list[str]
    rows: list[Row]
    left_out: int


def breakdowns(run: RunFolder, results: Sequence[Result]) -> list[Breakdown]:
    """Accuracy by class, and every measured metric of single images by category; where images have those."""
    found = []
    for name in dict.fromkeys(one.metric for one in results):
        metric = METRICS.get(name)
        if metric is None or metric.reference or name.endswith("diversity"):
            continue
        for by in ("class", "category") if name == "accuracy" else ("category",):
            found.append(_breakdown(run, results, name, by))
    return [one for one in found if one is not None]


def _breakdown(run: RunFolder, results: Sequence[Result], metric: str, by: str) -> Breakdown | None:
    values: dict[str, dict[str, tuple[float, int]]] = {}
    for (recipe, name), one in by_name(results).items():
        if name == metric:
            groups = _group_means(run, recipe, metric, by, one.n)
            values |= {recipe: groups} if groups else {}
    names = sorted({group for groups in values.values() for group in groups})
    if len(names) < 2:
        return None
    grid = np.array([[values[recipe].get(group, (np.nan, 0))[0] for recipe in values] for group in names])
    kept = sorted(np.argsort(-_spread(grid), kind="stable")[:MOST])
    low, high = np.nanmin(grid), np.nanmax(grid)
    rows = [Row(names[at], max(groups.get(names[at], (0, 0))[1] for groups in values.values()),
                [_shaded(value, low, high) for value in grid[at]]) for at in kept]
    return Breakdown(metric, by, list(values), rows, len(names) - len(kept))


def _group_means(run: RunFolder, recipe: str, metric: str, by: str, n: int) -> dict[str, tuple[float, int]]:
    """Mean and images of each group; empty where images have no groups, or can no longer be measured here."""
    groups = np.array([group or "" for group in run.index(recipe).slice(0, n)[by].to_pylist()])
    known = [str(group) for group in np.unique(groups) if group]
    if not known:
        return {}
    try:
        statistic = _statistic(run, recipe, metric, n)
    except BadValue:
        return {}
    return {group: (statistic.of((groups == group).astype(float)), int((groups == group).sum())) for group in known}


def _statistic(run: RunFolder, recipe: str, metric: str, n: int) -> Statistic:
    extractor: Any = EXTRACTORS[METRICS[metric].extractor]("cpu")
    images = Images.of(run, recipe, n)
    found = METRICS[metric].of(Sample(features(images, extractor), images.columns, None, getattr(extractor, "classes", [])))
    if not isinstance(found, Statistic):
        raise BadValue(f"{metric} is no mean over images")
    return found


def _spread(grid: np.ndarray) -> np.ndarray:
    return np.nanmax(grid, 1) - np.nanmin(grid, 1)


def _shaded(value: float, low: float, high: float) -> tuple[str, float] | None:
    if np.isnan(value):
        return None
    return f"{value:.3g}", float((value - low) / (high - low)) if high > low else 0.0
