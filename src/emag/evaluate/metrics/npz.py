"""Arrays in npz files of others: no pickle, no code, and nothing that unpacks to far more than it was."""

import io
import zipfile
from collections.abc import Sequence

import numpy as np

SMALL, RATIO, LARGEST = 64 << 20, 200, 8 << 30
"""Bytes unpacked: so many always, beyond that so many for each byte packed, and in all. Features hardly pack at all."""
KINDS = "biufUS"
"""Kinds of numbers and texts; others can hold code."""


def unpacked(data: bytes, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name (None: all). Raises `ValueError` in one line for a damaged or a hostile one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            wanted = [one for one in file.infolist() if names is None or one.filename.removesuffix(".npy") in names]
            size = sum(one.file_size for one in wanted)
            if size > min(LARGEST, max(SMALL, RATIO * len(data))):
                raise ValueError(f"it would unpack to {size / 1e9:.1f} GB")
            return {one.filename.removesuffix(".npy"): _array(file, one) for one in wanted}
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(next(iter(str(error).splitlines()), type(error).__name__)[:200]) from None


def _array(file: zipfile.ZipFile, one: zipfile.ZipInfo) -> np.ndarray:
    """One array; what its header announces must be what the file holds, before room is made for it."""
    data = io.BytesIO(file.read(one))
    version = np.lib.format.read_magic(data)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(data)
    if kind.kind not in KINDS:
        raise ValueError(f"{one.filename} holds {kind}, which is neither numbers nor text")
    if int(np.prod(shape, dtype=object)) * kind.itemsize != one.file_size - data.tell():
        raise ValueError(f"{one.filename} is cut, or says a wrong size")
    data.seek(0)
    return np.lib.format.read_array(data, allow_pickle=False)
