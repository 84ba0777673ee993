"""How likely an image is of a class, by the embedded classifier."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch.nn import functional

from ..errors import BadValue
from ..models.classifier import SIZE, Classifier, load_classifier
from ..near import choices
from .calibrated import log_ratio


@dataclass(frozen=True, eq=False)
class OfClass:
    """log p(class | image) of the embedded classifier, at most 0: a classifier of clean images, so for estimates of x0.

    temperatures: t1 and t2 of t1 f_y - log sum_j exp(t2 f_j), f the logits (EluCD: see `Calibrated`); (1, 1) is the log
    probability. Images of other sizes are resized to the classifier's.
    """

    label: str
    temperatures: tuple[float, float] = (1.0, 1.0)
    at: int = field(init=False)

    name: ClassVar[str] = "classifier"

    def __post_init__(self) -> None:
        known = classes()
        if self.label not in known:
            raise BadValue(f"the classifier knows no class {self.label!r}; {choices(self.label, known, 'it has')}")
        object.__setattr__(self, "at", known.index(self.label))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-2:] != (SIZE, SIZE):
            images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        network = _network(images.device)
        pixels = images.float() * 2 - 1
        # the mean over the image and its mirror image, as where the classifier judges
        logits = (network(pixels) + network(pixels.flip(-1))) / 2
        return log_ratio(logits, self.at, self.temperatures)


def classes() -> tuple[str, ...]:
    """The classes that the embedded classifier knows."""
    return tuple(_loaded()[1]["classes"])


@lru_cache(maxsize=1)
def _loaded() -> tuple[Classifier, dict[str, Any]]:
    with torch.inference_mode(False):  # weights made under it take part in no gradient
        network, card = load_classifier()
    return network.requires_grad_(False), card


@lru_cache(maxsize=4)
def _network(device: torch.device) -> Classifier:
    network = _loaded()[0]
    return network if device.type == "cpu" else load_classifier()[0].requires_grad_(False).to(device)
