"""What comes of a sweep: a picture of the front, and a run spec with the best setting of each recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ....files import whole
from ....shown import shortened
from ..labels import name_points
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
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for recipe in dict.fromkeys(trial["recipe"] for trial in ended):
        values = _values([trial for trial in ended if trial["recipe"] == recipe], names)
        axes.plot(*(values.T if len(names) == 2 else (np.arange(len(values)), values[:, 0])), "o", label=recipe)
    if len(names) == 2:
        values = _values(ended, names)
        best = values[front(values, [bool(METRICS[name].higher) for name in names])]
        axes.plot(*best[best[:, 0].argsort()].T, "-", color="0.5", zorder=0, label="front")
    labels = [f"{name} ({'more' if METRICS[name].higher else 'less'} is better)" for name in names]
    axes.set(xlabel=labels[0] if len(names) == 2 else "trial, in order", ylabel=labels[-1])
    axes.set_title(_title(found, ended), fontsize="medium")
    figure.legend(loc="outside right upper", fontsize="small")
    _name_best(figure, axes, found, ended, names)
    with whole(path) as draft:
        figure.savefig(draft, dpi=120, format="png")
    plt.close(figure)


def _title(found: dict[str, Any], ended: Sequence[dict[str, Any]]) -> str:
    given_up = len(found["trials"]) - len(ended)
    return f"sweep: {len(ended)} trials of {len({trial['recipe'] for trial in ended})} recipe(s), the best of each named" + (
        f"; {given_up} given up early are not shown" if given_up else "")


def _name_best(figure: Any, axes: Any, found: dict[str, Any], ended: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """The setting of each recipe's best trial, beside its point."""
    best = [trial for trial in ended if trial["trial"] == found["best"].get(trial["recipe"])]
    order = {name: [trial["trial"] for trial in ended if trial["recipe"] == name] for name in {t["recipe"] for t in ended}}

    def places(trials: Sequence[dict[str, Any]]) -> np.ndarray:
        values = _values(trials, names)
        if len(names) == 2:
            return values
        return np.array([[order[one["recipe"]].index(one["trial"]), value[0]] for one, value in zip(trials, values)])

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed for the drawing as it stands now
    name_points(axes, places(best), [shortened(f"{trial['recipe']}: {trial['setting']}", 48) for trial in best],
                others=places(ended))


def finished(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a sweep that were measured on all their images."""
    return [trial for trial in found["trials"] if not trial["given_up"]]


def _values(trials: Sequence[dict[str, Any]], names: Sequence[str]) -> np.ndarray:
    return np.array([[trial["results"][name]["value"] for name in names] for trial in trials])
