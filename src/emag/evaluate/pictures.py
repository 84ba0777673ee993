"""Image files read strictly: known formats, a size that fits into memory, one line for all that can be wrong."""

import io

import numpy as np
from PIL import Image

from ..errors import BadValue
from ..images import PIXELS

OWN = ("PNG",)
"""What runs are written in."""
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Eight bits a channel or fewer: others would be cut, not scaled."""


def opened(data: bytes, where: str, formats: tuple[str, ...] = OWN) -> Image.Image:
    """The image in the bytes of a file, RGB. Raises `BadValue` that names `where`; too large ones are not unpacked."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {PIXELS}")
            if image.mode not in MODES:
                raise ValueError(f"its pixels are of mode {image.mode}; {', '.join(MODES)} are read")
            return image.convert("RGB")
    except Exception as error:  # damaged files fail in many ways, size bombs in one of their own
        said = next(iter(str(error).splitlines()), type(error).__name__).replace(f"{io.BytesIO.__name__}", "file")
        raise BadValue(f"cannot read {where} as an image: {said}") from None


def clipped(pixels: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Which of the images uint8 [n, h, w, 3] have nothing but 0 and 255 in all channels, or in this share of values."""
    return ((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3)) >= share
