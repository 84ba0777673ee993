"""Image files read strictly: known formats, a size that fits into memory, one line for all that can be wrong."""

import numpy as np
from PIL import Image

from ...errors import BadValue
from ...records.png import read_image

OWN = ("PNG",)
"""What runs are written in."""
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Eight bits a channel or fewer: others would be cut, not scaled."""


def read_rgb(data: bytes, where: str, formats: tuple[str, ...] = OWN) -> Image.Image:
    """The image in the bytes of a file, RGB. Raises `BadValue` that names `where`; too large ones are not unpacked."""
    image = read_image(data, where, formats)
    if image.mode not in MODES:
        raise BadValue(f"cannot read {where} as an image: its pixels are of mode {image.mode}; {', '.join(MODES)} are read")
    return image.convert("RGB")


def clipped(pixels: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Which of the images uint8 [n, h, w, 3] have nothing but 0 and 255 in all channels, or in this share of values."""
    return ((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3)) >= share
