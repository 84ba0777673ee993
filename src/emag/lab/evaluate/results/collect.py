"""Numbers of the results page from run folders: their index, metrics.json, and sweep.json of the sweep before them."""

import json
import os
import platform
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import BadValue
from ....files import parsed
from ....methods.emag.rule import EMAG
from ....near import choices
from ...draw.columns import Column
from ..folder import RunFolder
from ..metrics import stored
from ..metrics.bootstrap import Estimate, described, median
from ..metrics.extractors import EXTRACTORS
from ..metrics.features import Images, features
from ..metrics.measure import Result, check_table
from ..recipes import read_recipe, recipe_data
from ..sweep.search import STORED as SWEEP
from ..truth import compare_parameters
from . import changed
from .as_json import rounded
from .numbers import LEVEL, Metric, Question, Results, Row, World


def collect(urls: Sequence[str], against: str = "cfg", again: Sequence[str] = (), questions: Sequence[Question] = (),
            changes: str | None = None) -> Results:
    """The numbers of run folders, and of a sweep's folder if it is among them.

    changes: the recipe whose mended and broken images are named, of a run that the judge of a world has measured.

    Raises `BadValue` for what cannot stand in one table.
    """
    folders = [RunFolder(url) for url in urls]
    sweeps = [folder for folder in folders if folder.storage.exists(SWEEP)]
    runs = [folder for folder in folders if folder not in sweeps]
    if not runs or len(sweeps) > 1:
        raise BadValue(f"give one run folder or more, and at most one folder of a sweep; got {len(runs)} and {len(sweeps)}")
    facts = _agreed(runs)
    sweep = _swept(sweeps[0]) if sweeps else None
    results = check_table([one for folder in runs for one in measured(folder)])
    rows = [_row(folder, name, results, sweep) for folder in runs for name in folder.recipes()]
    doubled = sorted({row.name for row in rows if sum(other.name == row.name for other in rows) > 1})
    if doubled:
        raise BadValue(f"recipe {', '.join(doubled)} is in two of the folders; keep one of them")
    metrics = {one.metric: Metric(one.version, one.higher) for one in results}
    _check_names(rows, questions, changes)
    found = [changed.find(one, changes, against) for one in runs if changes is not None and changes in one.recipes()]
    return Results(against, facts, machine(runs[0]), metrics, tuple(rows), _sweep(sweeps[0], sweep) if sweep else None,
                   tuple(again), tuple(questions), next(iter(found), None))


def _check_names(rows: Sequence[Row], questions: Sequence[Question], changes: str | None) -> None:
    """Raise `BadValue` for a recipe that is asked about and that no run has."""
    known = [row.name for row in rows]
    asked = [name for one in questions for pair in one.pairs for name in pair] + ([changes] if changes else [])
    unknown = [name for name in dict.fromkeys(asked) if name not in known]
    if unknown:
        raise BadValue(f"there is no recipe {', '.join(unknown)} in these runs; {choices(unknown[0], known)}")


def _swept(folder: RunFolder) -> dict[str, Any]:
    """What a sweep's folder holds, as far as it is read here. Raises `BadValue` where it is damaged."""
    try:
        found = parsed(folder.storage.read(SWEEP))
        for trial in found["trials"]:
            read_recipe(trial["recipe"], trial["data"])
            values = [float(one["value"]) for one in trial["results"].values()]
            if not (isinstance(trial["trial"], str) and all(map(isfinite, values))):
                raise ValueError(trial["trial"])
        return {key: found[key] for key in ("method", "select", "trials")} | {"best": dict(found["best"])}
    except BadValue:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadValue(f"{SWEEP} in {folder.url} is damaged: give the emag sweep command again, which writes it") from None


def measured(folder: RunFolder) -> list[Result]:
    """What `emag metrics` wrote. Raises `BadValue` where it did not."""
    found = stored.read(folder)
    if not found:
        raise BadValue(f"{folder.url} has no {stored.STORED}: give emag metrics {folder.url} --against cfg first")
    return found


def short(column: Column) -> str:
    """A recipe in the short form of the command line: "scale=2 emag=1.5,variant=map"."""
    data = recipe_data(column)
    parts = [item for key in ("rules", "sampler") for item in data.get(key, [])]
    words = [_word(name, values) for part in parts for name, values in part.items()]
    own = [f"{name}={value:g}" for name, value in (("scale", column.scale), ("steps", column.steps)) if value is not None]
    return " ".join([*own, *words]) or "host"


def machine(folder: RunFolder) -> dict[str, Any]:
    """This machine, and the versions that the run was begun with."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(),
            **folder.run["versions"]}


def _agreed(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What decides the images, the same in all runs."""
    keys = ("model", "seed", "steps", "batch_size", "height", "width", "negative", "classes")
    found = [{key: folder.run["spec"].get(key) for key in keys} | {"prompts": len(folder.spec.prompts)} for folder in runs]
    odd = [key for key in found[0] if any(one[key] != found[0][key] for one in found)]
    odd += ["prompts"] if len({folder.run["prompts_sha256"] for folder in runs}) > 1 else []
    if odd:
        raise BadValue(f"the runs differ in {', '.join(dict.fromkeys(odd))}: they cannot stand in one table")
    return {key: value for key, value in found[0].items() if value is not None}


def _row(folder: RunFolder, name: str, results: Sequence[Result], sweep: dict[str, Any] | None) -> Row:
    column, index = folder.recipe_of(name), folder.index(name)
    own = [one for one in results if one.recipe == name]
    minus: dict[str, dict[str, Estimate]] = {}
    for one in own:
        if one.against is not None:
            minus.setdefault(one.against, {})[one.metric] = _estimate(one)
    return Row(name, short(column), any(isinstance(rule, EMAG) for rule in column.rules), len(index), folder.spec.total,
               _seconds(index, folder.spec.batch_size), _mean(index["evaluations"]),
               {one.metric: _estimate(one) for one in own if one.against is None}, minus, *_chosen(column, sweep),
               plain=not (column.rules or column.own_loop), steps=column.steps,
               world=_world(folder, name) if any(one.metric == "correct" for one in own) else None)


def _world(folder: RunFolder, name: str) -> World | None:
    """Right images against true ones; None where too few are right to tell."""
    images = Images.of(folder, name)
    found = features(images, EXTRACTORS["judge"]("cpu"))
    wrong = found["right"] != 1
    try:
        true = compare_parameters(np.where(wrong[:, None], np.nan, found["parameters"]), images.columns["prompt"])
    except BadValue:
        return None
    x, y, radius = (float(f"{one.spread:.4g}") for one in true.differences[:3])
    far, precision, recall = (float(f"{value:.4g}") for value in (true.frechet, true.precision, true.recall))
    differ = tuple(one.parameter for one in true.differences if one.p < LEVEL)
    return World(true.right, (x, y, radius), far, precision, recall, differ)


def _estimate(one: Result) -> Estimate:
    return rounded(Estimate(one.value, one.low, one.high, one.n, one.p))


def _seconds(index: Any, batch_size: int) -> Estimate | None:
    """The median over batches: what else a machine did in a few of them does not move it."""
    batches = dict(zip((number // batch_size for number in index["number"].to_pylist()), index["seconds"].to_pylist()))
    return rounded(described(median(list(batches.values())))) if batches else None


def _mean(column: Any) -> float | None:
    return round(float(np.mean(column.to_pylist())), 3) if len(column) else None


def _chosen(column: Column, sweep: dict[str, Any] | None) -> tuple[bool | None, tuple[tuple[str, float], ...]]:
    """Whether the sweep chose this setting, and what it tried."""
    if sweep is None:
        return None, ()
    name, select = column.label, sweep["select"]
    trials = [trial for trial in sweep["trials"] if trial["recipe"] == name and select in trial["results"]]
    best = next((trial for trial in trials if trial["trial"] == sweep["best"].get(name)), None)
    tried = tuple((short(read_recipe(name, trial["data"])), float(f"{trial['results'][select]['value']:.6g}"))
                  for trial in trials)
    return best is not None and read_recipe(name, best["data"]) == column, tried


def _sweep(folder: RunFolder, found: dict[str, Any]) -> dict[str, Any]:
    counts = [sum(trial["recipe"] == name for trial in found["trials"]) for name in found["best"]]
    return {"method": found["method"], "select": found["select"], "trials": max(counts), "images": folder.spec.total,
            "seed": folder.spec.seed}


def _word(name: str, values: dict[str, Any]) -> str:
    first = f"={_text(values['scale'])}" if "scale" in values else ""
    return ",".join([name + first, *(f"{key}={_text(value)}" for key, value in values.items() if key != "scale")])


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, (str, int)) else json.dumps(value)


def _cpu() -> str:
    """Its model name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
