"""The list of metrics: a feature extractor and a statistic of its features each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ....errors import BadValue
from ....models.words import class_of
from ....near import choices
from . import bootstrap, kid
from .bootstrap import Estimate, Statistic
from .diversity import diversity
from .extractors.base import Features
from .extractors.judged import KINDS
from .jackknife import Jackknife
from .prdc import Manifolds, prdc, realism
from .reference import Reference, real_radii


@dataclass
class Sample:
    """What a statistic reads: features of the images of one recipe, their index, the reference if any, and k of PRDC."""

    features: Features
    columns: dict[str, list[Any]]
    reference: Reference | None = None
    classes: list[str] = field(default_factory=list)
    k: int = 5
    device: str = "cpu"

    @cached_property
    def manifolds(self) -> Manifolds:
        """Precision, recall, density and coverage per image."""
        known, balls = self.known, real_radii(self.compared, self.k, self.device)
        return prdc(known, self.features["features"], self.k, device=self.device, real_radii=balls)

    @property
    def compared(self) -> Reference:
        """The reference. Raises `BadValue` where there is none."""
        if self.reference is None:
            raise BadValue("this metric needs a reference: --reference FILE, made by emag reference")
        return self.reference

    @property
    def known(self) -> np.ndarray:
        """Reference features [r, d]. Raises `BadValue` where the reference has moments alone."""
        if self.compared.features is None:
            raise BadValue("this metric compares single images, and the reference holds only mu and sigma: "
                           "make one with features by emag reference")
        return self.compared.features


@dataclass(frozen=True)
class Metric:
    """of(sample) gives a statistic to draw from, or a finished estimate. part: what is measured, k and subsets named.

    higher: whether more of it is better; None where neither more nor less is: it tells how images look. prompts: whether it
    reads the prompts.
    """

    name: str
    extractor: str
    of: Callable[[Sample], Statistic | Jackknife | Estimate]
    higher: bool | None
    part: str
    reference: bool = False
    prompts: bool = False


def accuracy(sample: Sample) -> Statistic:
    """Share of images in which the classifier sees the class that was asked for. Raises `BadValue` where none was."""
    wanted = [_label(row, label, text, sample.classes) for row, (label, text) in
              enumerate(zip(sample.columns["class"], sample.columns["prompt"]))]
    return bootstrap.mean(sample.features["logits"].argmax(1) == np.array(wanted))


def _label(row: int, label: str | None, text: str | None, classes: list[str]) -> int:
    if label is not None and label.isdecimal() and int(label) < len(classes):
        return int(label)
    name = label if label in classes else class_of(label or text or "", classes)
    if name is None:
        raise BadValue(f"accuracy needs a class for every image, and image {row} has the empty prompt, or none")
    return classes.index(name)


def _fd(sample: Sample) -> Statistic:
    return bootstrap.frechet(sample.features["features"], sample.compared.moments, sample.device)


def _kid(sample: Sample) -> Estimate:
    return kid.kid(sample.features["features"], sample.known)


def _diversity(sample: Sample) -> Jackknife:
    groups = [label or text for label, text in zip(sample.columns["class"], sample.columns["prompt"])]
    return diversity(sample.features["features"], groups)


def _precision(sample: Sample) -> Statistic:
    return bootstrap.mean(sample.manifolds.precision == 1)


def _density(sample: Sample) -> Statistic:
    return replace(bootstrap.mean(sample.manifolds.density), share=True)  # where all are 0, that is a share of none


def _recall(sample: Sample) -> Jackknife:
    return Jackknife(float(sample.manifolds.recall.mean()), sample.manifolds.alone_recall, share=True)


def _coverage(sample: Sample) -> Jackknife:
    return Jackknife(float(sample.manifolds.coverage.mean()), sample.manifolds.alone_coverage, share=True)


def _realism(sample: Sample) -> Statistic:
    """The mean of log2: a ratio's natural scale, on which a few copies of real images do not outweigh all others."""
    known, balls = sample.known, real_radii(sample.compared, sample.k, sample.device)
    found = realism(known, sample.features["features"], sample.k, device=sample.device, real_radii=balls)
    return bootstrap.mean(np.log2(found))


def _of(name: str) -> Callable[[Sample], Statistic]:
    return lambda sample: bootstrap.mean(sample.features[name])


def _over(extractor: str, prefix: str) -> list[Metric]:
    """The metrics of sets of images, over one extractor."""
    return [Metric(prefix + "fd", extractor, _fd, False, "Frechet distance", True),
            Metric(prefix + "kid", extractor, _kid, False, f"KID, {kid.SUBSETS} subsets of {{size}}", True),
            *(Metric(f"{prefix}{of.__name__[1:]}", extractor, of, True, f"{of.__name__[1:]}, k={{k}}", True)
              for of in (_precision, _recall, _density, _coverage)),
            Metric(prefix + "realism", extractor, _realism, True, "mean log2 of realism, k={k}", True),
            Metric(prefix + "diversity", extractor, _diversity, None, "1 - cosine within a prompt or class")]


def _share(name: str) -> Callable[[Sample], Statistic]:
    """The share of images in which a thing is right, among those that were asked for it."""
    def of(sample: Sample) -> Statistic:
        values = sample.features[name]
        if (values < 0).all():
            raise BadValue(f"none of the {len(values)} prompts asks for a {name}, so no share of them is right: take more "
                           "images, or leave that metric out")
        if (values >= 0).all():
            return bootstrap.mean(values == 1)
        return replace(bootstrap.mean(np.where(values < 0, np.nan, values)), share=True)
    return of


def _judged() -> list[Metric]:
    """What the judge of the world of shapes counts."""
    kinds = [Metric("correct", "judge", _share("right"), True, "all of the prompt right", prompts=True),
             *(Metric(f"correct-{name}", "judge", _share(name), True, f"{name} right, where asked for", prompts=True)
               for name in KINDS)]
    parts = [Metric("residual", "judge", _of("residual"), False, "dB to the nearest image of the world", prompts=True),
             *(Metric(f"residual-{name}", "judge", _of(name), False, f"dB, {where}", prompts=True)
               for name, where in (("edges", "on outlines"), ("flat", "inside objects"), ("ground", "on the background")))]
    return [*kinds, Metric("extra", "judge", _of("extra"), False, "objects too many", prompts=True), *parts]


def _median(name: str) -> Callable[[Sample], Statistic]:
    return lambda sample: bootstrap.median(sample.features[name])


SCORES = ("hps2", "hps2.1", "pickscore", "imagereward", "aesthetic")
METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    *_over("embedded", ""), Metric("accuracy", "embedded", accuracy, True, "class accuracy"),
    *_over("inception", "inception-"), *_over("dinov2", "dinov2-"), *_over("clip", "clip-"), *_over("random", "random-"),
    Metric("discriminator", "discriminator", _of("score"), True, "mean logit of being real"),
    *_judged(), Metric("saturation", "pixels", _of("saturation"), None, "HSV saturation"),
    Metric("contrast", "pixels", _of("contrast"), None, "RMS contrast"),
    Metric("high_frequency", "pixels", _of("high_frequency"), None, "luma energy from half Nyquist on"),
    Metric("clipscore", "clip", _of("score"), True, "mean score", prompts=True),
    *(Metric(f"{name}{end}", name, of("score"), True, f"{word} score", prompts=name != "aesthetic") for name in SCORES
      for end, of, word in (("", _of, "mean"), ("-median", _median, "median"))))}
"""Every metric by name. Without a prefix: features of the embedded classifier."""
GROUPS = {"prdc": ("precision", "recall", "density", "coverage"), "fid": ("inception-fd",),
          "pixels": ("saturation", "contrast", "high_frequency"),
          "judge": tuple(name for name, one in METRICS.items() if one.extractor == "judge")}


def chosen(names: list[str]) -> list[Metric]:
    """Metrics by name; prdc, PREFIX-prdc, fid, pixels and judge stand for several. Raises `BadValue` for unknown names."""
    full: list[str] = []
    for name in names:
        prefix, _, last = name.rpartition("-")
        group = GROUPS.get(name) or tuple(f"{prefix}-{one}" for one in GROUPS["prdc"] if last == "prdc")
        full += group or (name,)
    unknown = [name for name in full if name not in METRICS]
    if unknown or not full:
        wrong = ", ".join(unknown) or "given"
        raise BadValue(f"there is no metric {wrong}; {choices(wrong, [*METRICS, *GROUPS])}")
    return [METRICS[name] for name in dict.fromkeys(full)]
