"""What a report reads of a run: its metrics.json, and what images cost by its index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import BadValue
from ...near import choices
from ..folder import RunFolder
from ..metrics import bootstrap, stored
from ..metrics.bootstrap import Estimate
from ..metrics.measure import Result

COSTS = {"evaluations": "block evaluations per image", "seconds": "seconds per image, by batch"}


def measured(run: RunFolder) -> list[Result]:
    """The metrics stored in a run, of the recipes that it has; none where nothing was measured. Raises `BadValue`."""
    known = run.recipes()
    return [one for one in stored.read(run) if one.recipe in known and one.against in (None, *known)]


def costs(run: RunFolder, baseline: str | None) -> list[Result]:
    """Block evaluations and seconds per image of each recipe, and minus the baseline's, as metrics are.

    The images of a batch share its seconds, so batches are drawn for that interval.
    """
    found = {name: _costs(run, name) for name in run.recipes()}
    results = []
    for name, values in found.items():
        for metric in COSTS:
            results += _own(name, metric, values[metric])
            if baseline is not None and name != baseline:
                results += _paired(name, metric, values[metric], found[baseline][metric], baseline)
    return results


def baseline_of(results: Sequence[Result], recipes: Sequence[str], wanted: str | None) -> str:
    """The recipe that others are held against: the one asked for, or the one measured against, or the first."""
    if wanted is not None and wanted not in recipes:
        raise BadValue(f"the run has no recipe {wanted!r}; {choices(wanted, recipes, 'it has')}")
    return wanted or next((one.against for one in results if one.against), recipes[0])


def _costs(run: RunFolder, recipe: str) -> dict[str, dict[int, float]]:
    """Evaluations by image number; seconds by batch."""
    rows = run.index(recipe).select(["number", "evaluations", "seconds"]).to_pylist()
    cells: dict[int, list[float]] = {}
    for row in rows:
        cells.setdefault(row["number"] // run.spec.batch_size, []).append(row["seconds"])
    return {"evaluations": {row["number"]: row["evaluations"] for row in rows},
            "seconds": {cell: float(np.mean(values)) for cell, values in cells.items()}}


def _own(recipe: str, metric: str, values: Mapping[int, float]) -> list[Result]:
    return [_result(recipe, metric, bootstrap.described(bootstrap.mean(list(values.values()))))] if values else []


def _paired(recipe: str, metric: str, values: Mapping[int, float], others: Mapping[int, float], base: str) -> list[Result]:
    """The difference over what both have; none by a single batch, which has no spread."""
    both = [key for key in values if key in others]
    if not both or (metric == "seconds" and len(both) < 2):
        return []
    a, b = (bootstrap.mean([source[key] for key in both]) for source in (values, others))
    return [_result(recipe, metric, bootstrap.difference(a, b), base)]


def _result(recipe: str, metric: str, found: Estimate, against: str | None = None) -> Result:
    return Result(recipe, metric, found.value, found.low, found.high, found.n, COSTS[metric], False, against)


def by_name(results: Sequence[Result]) -> dict[tuple[str, str], Result]:
    """Own values by recipe and metric."""
    return {(one.recipe, one.metric): one for one in results if one.against is None}


def page_facts(run: RunFolder) -> dict[str, Any]:
    """What was run, as texts by name."""
    spec = run.spec
    model = ", ".join([spec.model.id, *(f"{key} {value}" for key, value in run.run["spec"]["model"].items() if key != "id")])
    size = {"size": f"{spec.width} x {spec.height}"} if spec.width and spec.height else {}
    versions = ", ".join(f"{name} {version}" for name, version in run.run["versions"].items())
    return {"model": model, "recipes": str(len(spec.recipes)), "images per recipe": str(spec.total),
            "prompts": str(len(spec.prompts)), "steps": str(spec.steps or "the pipeline's"), **size, "seed": str(spec.seed),
            "batch size": str(spec.batch_size), "versions": versions}
