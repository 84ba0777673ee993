"""Training images: parquet files, or a dataset of the Hugging Face hub, as one tensor in memory."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import BadValue
from ..models.folder import first_line

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [count, 3, size, size]; labels: int64 [count]."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read(source: str, size: int, classes: int) -> Images:
    """Images of a parquet file, a folder of them (those named train* if any) or a hub dataset's train split.

    Columns: image ({bytes, path}, also called img) and label. Images of another size are cropped to the middle square
    and resized. Raises `BadValue` where nothing can be read, or a label is not below `classes`.
    """
    path = Path(source).expanduser()
    pictures, labels = _parquet(_files(path)) if path.exists() else _hub(source)
    wanted = torch.tensor(labels, dtype=torch.long)
    if not len(wanted):
        raise BadValue(f"{source} holds no images")
    if int(wanted.min()) < 0 or int(wanted.max()) >= classes:
        raise BadValue(f"{source} has labels from {int(wanted.min())} to {int(wanted.max())}, but {classes} class names "
                       "were given: name them all with --classes")
    try:
        pixels = np.stack([_pixels(picture, size) for picture in pictures])
    except (OSError, TypeError, KeyError) as error:
        raise BadValue(f"{source} has an image that cannot be read: {first_line(error)}") from error
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), wanted)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.rglob("train*.parquet")) or sorted(path.rglob("*.parquet"))
    if not found:
        raise BadValue(f"no parquet file in {path}")
    return found


def _parquet(files: list[Path]) -> tuple[list[Any], list[int]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadValue("reading parquet needs pyarrow: pip install 'emag[train]'") from error
    pictures: list[Any] = []
    labels: list[int] = []
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise BadValue(f"{file} is not a parquet file that can be read: {first_line(error)}") from error
        pictures += table[_column(table.column_names, IMAGE_COLUMNS, file)].to_pylist()
        labels += table[_column(table.column_names, LABEL_COLUMNS, file)].to_pylist()
    return pictures, labels


def _hub(source: str) -> tuple[Iterable[Any], list[int]]:
    try:
        import datasets
    except ImportError as error:
        raise BadValue(f"{source} is no file or folder here, and hub datasets need another package: "
                       "pip install datasets, or give --data a parquet file") from error
    try:
        split = datasets.load_dataset(source, split="train")
    except Exception as error:  # the package raises many kinds of its own
        raise BadValue(f"cannot load the dataset {source}: {first_line(error)}") from error
    image = _column(split.column_names, IMAGE_COLUMNS, source)
    return split[image], list(split[_column(split.column_names, LABEL_COLUMNS, source)])


def _column(names: list[str], choices: tuple[str, ...], where: Any) -> str:
    for name in choices:
        if name in names:
            return name
    raise BadValue(f"{where} has no column {' or '.join(choices)}, only {', '.join(names)}")


def _pixels(picture: Any, size: int) -> np.ndarray:
    """One image as uint8 [size, size, 3], from a PIL image or a {bytes, path} cell."""
    if isinstance(picture, dict):
        picture = _opened(picture)
    picture = picture.convert("RGB")
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _opened(cell: Mapping[str, Any]) -> Image.Image:
    """The picture of a {bytes, path} cell. Raises `BadValue` for damage, and for formats that data sets do not use."""
    try:
        picture = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"], formats=FORMATS)
        picture.load()
    except Exception as error:  # a decoder meets damage of every kind, and raises as many
        raise BadValue(f"a picture of the data cannot be read: {str(error).partition(chr(10))[0]}") from None
    return picture
