"""What comes of a sweep: a picture of the front, and a run spec with the best setting of each recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ....files import whole
from ..metrics.table import METRICS
from ..pareto import front
from .spec import SweepSpec


def write_best(spec: SweepSpec, found: dict[str, Any], path: Path) -> None:
    """Write a run spec: the sweep's, with the best setting of each recipe under the recipe's name, and no folder."""
    trials = {trial["trial"]: trial["data"] for trial in found["trials"]}
    base = {key: value for key, value in spec.base.items() if key != "out"}
    data = {**base, "recipes": {recipe: trials[name] for recipe, name in found["best"].items()}}
    with whole(path) as draft:
        draft.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the first two objectives of all trials, and their front, as a PNG (one objective: against the trial).

    Trials that were given up are left out: they were measured on fewer images, with which a distance is larger.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names, ended = found["objectives"][:2], finished(found)
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    for recipe in dict.fromkeys(trial["recipe"] for trial in ended):
        values = _values([trial for trial in ended if trial["recipe"] == recipe], names)
        axes.plot(*(values.T if len(names) == 2 else (np.arange(len(values)), values[:, 0])), "o", label=recipe)
    if len(names) == 2:
        values = _values(ended, names)
        best = values[front(values, [bool(METRICS[name].higher) for name in names])]
        axes.plot(*best[best[:, 0].argsort()].T, "-", color="0.5", zorder=0, label="front")
    axes.set(xlabel=names[0] if len(names) == 2 else "trial", ylabel=names[-1])
    if len(ended) < len(found["trials"]):
        axes.set_title(f"{len(found['trials']) - len(ended)} trials were given up early and are not shown", fontsize="small")
    axes.legend(ncols=2, fontsize="small")
    with whole(path) as draft:
        figure.savefig(draft, dpi=120, format="png")
    plt.close(figure)


def finished(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a sweep that were measured on all their images."""
    return [trial for trial in found["trials"] if not trial["given_up"]]


def _values(trials: Sequence[dict[str, Any]], names: Sequence[str]) -> np.ndarray:
    return np.array([[trial["results"][name]["value"] for name in names] for trial in trials])
