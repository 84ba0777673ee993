"""Reference features and moments in npz files without pickle; reads those of ADM and pytorch-fid."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ....errors import BadValue
from ....files import whole
from . import frechet
from .extractors.base import Extractor
from .features import BATCH, extract, packed
from .frechet import Moments
from .npz import unpacked
from .plain import PlainFolder
from .prdc import radii

FOREIGN = "inception"
"""What files of ADM and pytorch-fid hold the moments of; they do not say it themselves."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Moments, features [r, d] where the file has them, the extractor's version (None: the file does not say), a name."""

    moments: Moments
    features: np.ndarray | None
    version: str | None
    name: str

    def fits(self, version: str) -> bool:
        """Whether features of an extractor of this version may be compared with these."""
        return version.startswith(FOREIGN) if self.version is None else version == self.version


@lru_cache(maxsize=4)
def real_radii(reference: Reference, k: int, device: str) -> torch.Tensor:
    """Radii for PRDC around the images of a reference that has features, [r]; kept for the next recipe."""
    x = torch.as_tensor(reference.features, device=device).double()
    return radii(x - x.mean(0), k)


def read(path: str | Path) -> Reference:
    """A file of `write`, or any npz with mu [d] and sigma [d, d]. Raises `BadValue` for all else."""
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
        arrays = unpacked(data, ("mu", "sigma", "n", "features", "version"))
    except OSError as error:
        raise BadValue(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise BadValue(f"{file} is no npz file with reference statistics: {error}") from None
    _check(file, arrays)
    mean, cov = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
    return Reference(Moments(mean, cov, int(arrays["n"]) if "n" in arrays else None), arrays.get("features"),
                     str(arrays["version"]) if "version" in arrays else None,
                     f"{file.stem}-{hashlib.sha256(data).hexdigest()[:8]}")


def _check(file: Path, arrays: dict[str, np.ndarray]) -> None:
    if "mu" not in arrays or "sigma" not in arrays:
        raise BadValue(f"{file} lacks mu or sigma; make one with emag reference, or use an ADM or pytorch-fid file")
    width = arrays["mu"].shape
    if len(width) != 1 or arrays["sigma"].shape != width * 2:
        raise BadValue(f"{file}: mu [d] and sigma [d, d] were expected, got {list(width)} and {list(arrays['sigma'].shape)}")
    wanted = {"n": ((), "iu"), "version": ((), "U"), "features": ((len(arrays.get("features", ())), *width), "f")}
    odd = [name for name, (shape, kind) in wanted.items() if name in arrays
           and (arrays[name].shape != shape or arrays[name].dtype.kind not in kind)]
    odd += [name for name in ("mu", "sigma", "features") if name in arrays and name not in odd
            and (arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all())]
    if odd or not width[0]:
        raise BadValue(f"{file}: {', '.join(odd) or 'mu'} is not what reference statistics hold (finite numbers, features "
                       "[r, d], a whole number n, a text)")


def write(path: str | Path, features: np.ndarray, version: str) -> Path:
    """Save features [r, d] and their moments: under a temporary name first."""
    found, file = frechet.moments(features), Path(path).expanduser()
    with whole(file) as draft:
        draft.write_bytes(packed({"mu": found.mean.numpy(), "sigma": found.cov.numpy(), "n": np.array(len(features)),
                                  "features": features.astype(np.float32), "version": np.array(version)}))
    return file


def of_data(source: str | Path, extractor: Extractor, size: int | None = None, limit: int | None = None) -> np.ndarray:
    """Features of the first `limit` images (None: all) in a folder of them, or in a parquet file or a folder of those.

    size: height and width, to which images of a parquet file are brought; None is 32. Those of a folder stay as they are.
    """
    extractor.check()
    path = Path(source).expanduser()
    if path.is_dir() and not any(path.rglob("*.parquet")):
        if size is not None:
            raise BadValue(f"{path} is a folder of images, which are read as they are, without --size")
        folder = PlainFolder(path)
        [name] = folder.recipes()
        return extract(folder.images(name, BATCH, limit), extractor, [""] * len(folder.files[:limit]))["features"]
    return of_parquet(path, extractor, size or 32, limit)


def of_parquet(source: str | Path, extractor: Extractor, size: int = 32, limit: int | None = None) -> np.ndarray:
    """Features of the labelled images in a parquet file, `limit` of them (None: all), at `size` pixels."""
    from ... import labelled

    extractor.check()
    images = labelled.read(str(source), size, 1 << 30).pixels[:limit].permute(0, 2, 3, 1).numpy()
    return extract(_batches(images), extractor, [""] * len(images))["features"]


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), BATCH):
        yield images[start:start + BATCH]
