"""How images are brought to the size and range a network reads: each way is part of a metric's version."""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from ....models.judges import CLIP_MEAN, CLIP_STD

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "cropped", "normalised", "padded", "stretched"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cropped(images: np.ndarray, size: int) -> torch.Tensor:
    """Shorter side to `size`, middle square: PIL bicubic on uint8 [n, h, w, 3], as CLIP. [n, 3, size, size] in [0, 1]."""
    h, w = images.shape[1:3]
    short = min(h, w)
    new_h, new_w = (size if side == short else int(size * side / short) for side in (h, w))
    top, left = (new_h - size) // 2, (new_w - size) // 2
    return _tensor(np.stack([_pil(one, new_w, new_h) for one in images])[:, top:top + size, left:left + size])


def stretched(images: np.ndarray, size: int) -> torch.Tensor:
    """Both sides to `size`: PIL bicubic on uint8 [n, h, w, 3], nothing cut off. [n, 3, size, size] in [0, 1]."""
    return _tensor(np.stack([_pil(one, size, size) for one in images]))


def padded(images: np.ndarray, size: int, antialias: bool = True) -> torch.Tensor:
    """Longer side to `size`: bicubic on floats, zeros around to a square. [n, 3, size, size], may leave [0, 1] a little.

    What HPS v2 does; `antialias` is what torchvision's default was until 0.16 (False) and is since (True).
    """
    x = _tensor(images)
    h, w = (round(side * size / max(x.shape[2:])) for side in x.shape[2:])
    if max(x.shape[2:]) != size:
        x = interpolate(x, (h, w), mode="bicubic", antialias=antialias, align_corners=False)
    above, left = (size - h) // 2, (size - w) // 2
    return pad(x, (left, size - w - left, above, size - h - above))


def normalised(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """(x - mean) / std per channel of [n, 3, h, w]."""
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def _pil(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
