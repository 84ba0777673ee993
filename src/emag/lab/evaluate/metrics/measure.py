"""Metrics of the recipes of a run, each with an interval and the version of what measured it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import BadValue
from ....near import choices
from . import bootstrap, doubts, kid
from .bootstrap import Estimate, Statistic
from .extractors import EXTRACTORS
from .extractors.base import Extractor, Picky
from .extractors.discriminator import Realness
from .features import Images, features
from .jackknife import Jackknife
from .reference import Reference
from .table import Metric, Sample, chosen

log = logging.getLogger("emag")


@dataclass(frozen=True)
class Result:
    """A metric of a recipe, or of recipe minus `against`, with its 95 % interval, over n images; p of a paired test."""

    recipe: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    version: str
    higher: bool | None
    against: str | None = None
    p: float | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Metrics whose extractors are loaded and whose reference fits: nothing of them is missing."""

    metrics: list[Metric]
    extractors: dict[str, Extractor]
    reference: Reference | None
    k: int
    device: str = "cpu"

    def version(self, metric: Metric, images: int) -> str:
        """What measured a metric of so many images: extractor, statistic, reference."""
        known = [self.reference.name] if metric.reference and self.reference else []
        real = self.reference.features if self.reference else None
        part = metric.part.format(k=self.k, size=kid.subset_size(images, images if real is None else len(real)))
        return "; ".join([self.extractors[metric.extractor].version, part, *known])


def plan(names: Sequence[str], reference: Reference | None = None, k: int = 5, device: str = "cpu",
         discriminator: str | Path | None = None) -> Plan:
    """Load what the metrics need. discriminator: folder of another one than the embedded.

    Raises `BadValue` for anything missing or not fitting: call it before images are made.
    """
    metrics = chosen(list(names))
    own = {} if discriminator is None else {"discriminator": lambda on: Realness(on, Path(discriminator).expanduser())}
    extractors = {name: (EXTRACTORS | own)[name](device) for name in dict.fromkeys(one.extractor for one in metrics)}
    for metric in metrics:
        if metric.reference and reference is None:
            raise BadValue(f"{metric.name} needs a reference: --reference FILE, made by emag reference")
    for extractor in extractors.values():
        extractor.check()
    for metric in metrics:
        version = extractors[metric.extractor].version
        if metric.reference and reference is not None and not reference.fits(version):
            raise BadValue(f"{metric.name} reads {version}, but the reference {reference.name} is of "
                           f"{reference.version or 'Inception (the file does not say)'}; make one with emag reference")
    return Plan(metrics, extractors, reference, k, device)


def measure(run: Any, plan: Plan, recipes: Sequence[str] | None = None, against: Sequence[str] = (),
            limit: int | None = None, seed: int = 0, done: Callable[[str], None] = lambda what: None) -> list[Result]:
    """All metrics of a plan for recipes of a `RunFolder` (None: all of them), the first `limit` images of each.

    against: also each recipe minus each of these, the same image numbers drawn for both. `done` hears of each recipe.
    """
    names = list(recipes) if recipes is not None else run.recipes()
    for base in against:
        if base not in names:
            raise BadValue(f"--against {base!r} is none of the recipes measured; {choices(base, names)}")
    _check_seeds(run, plan, names, limit)
    found: dict[str, dict[str, Statistic | Jackknife | Estimate]] = {}
    numbers, results = {}, []
    for recipe in names:
        images = Images.of(run, recipe, limit)
        numbers[recipe], found[recipe] = images.columns["number"], _statistics(images, plan)
        results += [_result(recipe, metric, plan, _estimate(found[recipe][metric.name], seed)) for metric in plan.metrics]
        done(recipe)
    return check_table(results + [one for base in against for one in _differences(plan, found, numbers, base, seed)])


def _check_seeds(run: Any, plan: Plan, names: Sequence[str], limit: int | None) -> None:
    """Raise `BadValue` for images that an extractor must not judge, before any is read."""
    for extractor in (one for one in plan.extractors.values() if isinstance(one, Picky)):
        for recipe in names:
            extractor.refuse(recipe, Images.of(run, recipe, limit).columns["seed"])


def _statistics(images: Images, plan: Plan) -> dict[str, Statistic | Jackknife | Estimate]:
    found: dict[str, Statistic | Jackknife | Estimate] = {}
    reads = [metric.name for metric in plan.metrics if metric.prompts]
    if reads and None in images.columns["prompt"]:
        raise BadValue(f"{', '.join(reads)} reads what the images should show, and they have no captions: put NAME.txt "
                       "beside NAME.png, or a metadata.jsonl with file_name and text into the folder")
    for name, extractor in plan.extractors.items():
        sample = Sample(features(images, extractor), images.columns, plan.reference, getattr(extractor, "classes", []),
                        plan.k, plan.device)
        own = [metric for metric in plan.metrics if metric.extractor == name]
        found |= {metric.name: metric.of(sample) for metric in own}
        said = doubts.of_images(images.recipe, sample.features)
        for metric in own if plan.reference else ():
            if metric.name.endswith("fd"):
                moments = sample.compared.moments
                said += doubts.of_distance(metric.name, len(moments.mean), len(images), moments.count)
        for text in said:
            log.warning("emag: %s", text)
    return found


def _estimate(found: Statistic | Jackknife | Estimate, seed: int) -> Estimate:
    return found if isinstance(found, Estimate) else bootstrap.interval(found, seed)


def _result(recipe: str, metric: Metric, plan: Plan, found: Estimate, against: str | None = None) -> Result:
    if not np.isfinite([found.value, found.low, found.high]).all():
        raise BadValue(f"{metric.name} of {recipe} is {found.value}, no number: its images or the reference are damaged")
    return Result(recipe, metric.name, found.value, found.low, found.high, found.n, plan.version(metric, found.n),
                  metric.higher, against, found.p)


def _differences(plan: Plan, found: dict[str, dict[str, Statistic | Jackknife | Estimate]], numbers: dict[str, list[int]],
                 against: str, seed: int) -> list[Result]:
    results = []
    for recipe in found:
        if recipe == against:
            continue
        if numbers[recipe] != numbers[against]:
            raise BadValue(f"{recipe} and {against} have different images finished: a paired difference needs the same "
                           "numbers; give --limit, or finish the run")
        for metric in plan.metrics:
            a, b = found[recipe][metric.name], found[against][metric.name]
            if not isinstance(a, Estimate) and not isinstance(b, Estimate):
                results.append(_result(recipe, metric, plan, bootstrap.difference(a, b, seed), against))
    return results


def check_table(results: Sequence[Result]) -> list[Result]:
    """The results, which may stand in one table. Raises `BadValue` where one metric was measured in two versions."""
    versions: dict[str, str] = {}
    for one in results:
        if versions.setdefault(one.metric, one.version) != one.version:
            raise BadValue(f"{one.metric} of {one.recipe} is from [{one.version}], but that of others from "
                           f"[{versions[one.metric]}]: they cannot stand in one table; measure all of them again with one")
    return list(results)
