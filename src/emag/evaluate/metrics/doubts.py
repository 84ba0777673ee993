"""What makes a measured value doubtful, as sentences said beside it: the value alone would not tell."""

import numpy as np

from ...errors import BadValue
from .extractors.base import Features

CLIPPED = "clipped"
"""Among the features of images: which of them have hardly a value between 0 and 255."""


def refuse_infinite(found: Features) -> None:
    """Raise `BadValue` where an extractor gave an image a number that is none."""
    for name, values in found.items():
        bad = [at for at, row in enumerate(values) if values.dtype.kind == "f" and not np.isfinite(row).all()]
        if bad:
            raise BadValue(f"the {name} of {len(bad)} of {len(values)} images are not finite, first those of place "
                           f"{bad[0]}: they measure nothing")


def of_images(recipe: str, found: Features) -> list[str]:
    """Images that show nothing: black, white, or every channel at an end."""
    bad = np.flatnonzero(found[CLIPPED])
    if not len(bad):
        return []
    return [f"{len(bad)} of {len(found[CLIPPED])} images of {recipe} are black, white or clipped nearly everywhere (first "
            f"that of place {bad[0]}): the network or a rule gave no finite numbers, or a scale is out of any useful range. "
            "What is measured counts them"]


def of_distance(metric: str, width: int, images: int, real: int | None) -> list[str]:
    """Fewer images than a covariance of `width` channels takes: the distance is then mostly that of their number."""
    least = 2 * width
    few = [f"{count} {what}" for count, what in ((images, "images"), (real, "reference images")) if count and count < least]
    if not few:
        return []
    return [f"{metric} compares covariances of {width} features, and {' and '.join(few)} do not tell one: take {least} or "
            "more, or hold it only against values of as many images"]
