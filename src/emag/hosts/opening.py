"""How pipelines of diffusers are opened: by folder or hub id, or from one file of weights and a base that has the rest."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open

from ..errors import BadValue, Unsupported
from ..models.folder import first_line
from ..models.shapes import ShapesPipeline
from ..models.tiny import TinyPipeline
from . import hub
from .extras import require
from .lookup import host_of_class

INDEX = "model_index.json"
FILES = (".safetensors", ".gguf")
UNSAFE = (".ckpt", ".pt", ".pth", ".bin")
WHOLE = ("first_stage_model.", "vae.", "conditioner.", "cond_stage_model.", "text_encoders.")
"""How the names of tensors begin that a checkpoint of a whole pipeline has beside its network's."""


@dataclass(frozen=True)
class ModelSource:
    """Where the parts of a pipeline come from, beside its name.

    base: folder or hub id of what a single file lacks: configurations, text encoders, the VAE; None asks the file's keys.
    pipeline: the pipeline's class; None is the one that the base names. gguf: a GGUF file whose network takes the place of
    the pipeline's own. variant: of the weights' files, e.g. "fp16".
    """

    base: str | None = None
    pipeline: str | None = None
    gguf: str | None = None
    variant: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """What is not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def open_folder(name: str, dtype: torch.dtype, revision: str | None, origin: ModelSource) -> Any:
    """A pipeline by folder or hub id. Raises `BadValue` for what cannot be loaded, `Unsupported` for unknown classes."""
    if origin.base is not None:
        raise BadValue(f"base={origin.base!r} is for a single file, and {name} is a whole pipeline: leave it out")
    if origin.gguf is not None:
        file = Path(origin.gguf).expanduser()
        return open_file(file, dtype, revision, ModelSource(name, origin.pipeline, None, origin.variant))
    with loading(name):
        return _pretrained(name, dtype, revision, origin)


def configured(name: str, revision: str | None, origin: ModelSource) -> tuple[str, dict[str, Any], Any]:
    """Where the configurations of a model are that `load` would open, with what it looks there, and the pipeline's class.

    No weights are read. Raises `BadValue` and `Unsupported` as `open_folder` and `open_file`.
    """
    path = Path(origin.gguf or name).expanduser()
    place = name
    if path.suffix in (*FILES, *UNSAFE) and not path.is_dir():
        _check_file(path)
        place = name if origin.gguf else origin.base or _base(_tensors(path))
    with loading(name):
        cls, _, where = _class(place, revision, origin)
    return place, where, cls


def open_file(path: Path, dtype: torch.dtype, revision: str | None, origin: ModelSource) -> Any:
    """A pipeline whose network is in one safetensors or GGUF file: the whole checkpoint, or the network alone.

    revision: of the base. Raises `BadValue` and `Unsupported` as `open_folder`; nothing in the file is run.
    """
    if origin.gguf is not None:
        raise BadValue(f"gguf={origin.gguf!r} is the network of a whole pipeline, and {path} is a single file: name "
                       "one of them")
    _check_file(path)
    with loading(str(path)):
        shapes = _tensors(path)
        base = origin.base or _base(shapes)
        if any(name.startswith(WHOLE) for name in shapes):
            return _checkpoint(path, base, dtype, revision, origin)
        return _pretrained(base, dtype, revision, origin, lambda cls, config, where: {
            part: _network(path, base, part, config, dtype, where) for part in [host_of_class(cls).denoiser]})


def _pretrained(name: str, dtype: torch.dtype, revision: str | None, origin: ModelSource,
                parts: Callable[[Any, Mapping[str, Any], dict[str, Any]], dict[str, Any]] | None = None) -> Any:
    cls, config, where = _class(name, revision, origin)
    absent = {part: None for part, place in config.items() if isinstance(place, list) and place[0] is None}
    given = parts(cls, config, where) if parts else {}
    variant = {"variant": origin.variant} if origin.variant else {}
    return cls.from_pretrained(name, dtype=dtype, use_safetensors=True, **variant, **where, **absent, **given)


def _checkpoint(path: Path, base: str, dtype: torch.dtype, revision: str | None, origin: ModelSource) -> Any:
    """Everything in one file; the base has the configurations."""
    if origin.variant is not None:
        raise BadValue(f"variant={origin.variant!r} names files of a folder, and everything is in this one: leave it out")
    cls, _, where = _class(base, revision, origin)
    if not hasattr(cls, "from_single_file"):
        raise Unsupported(f"diffusers reads no {cls.__name__} from a single file: give a folder of save_pretrained")
    return cls.from_single_file(str(path), config=base, dtype=dtype, **where)


def _class(name: str, revision: str | None, origin: ModelSource) -> tuple[Any, Mapping[str, Any], dict[str, Any]]:
    """A pipeline's class, its index, and where to look for its files."""
    where: dict[str, Any] = {"revision": revision}
    if not Path(name).is_dir() and hub.cached_only(name, INDEX, revision):
        where["local_files_only"] = True
    config = diffusers.DiffusionPipeline.load_config(name, **where)
    return pipeline_class(name, origin.pipeline or str(config.get("_class_name"))), config, where


def _network(path: Path, base: str, part: str, config: Mapping[str, Any], dtype: torch.dtype, where: dict[str, Any]) -> Any:
    cls: Any = getattr(diffusers, str((config.get(part) or ["", ""])[1]), None)
    if cls is None or not hasattr(cls, "from_single_file"):
        raise Unsupported(f"diffusers reads no {part} of {base} from a single file")
    quantised = {"quantization_config": diffusers.GGUFQuantizationConfig(dtype)} if path.suffix == ".gguf" else {}
    try:
        return cls.from_single_file(str(path), config=base, subfolder=part, dtype=dtype, **quantised, **where)
    except Exception as error:  # tensors too many, too few or of another shape: diffusers has many words for it
        raise BadValue(f"it does not fit the {cls.__name__} of {base} ({first_line(error)[:200]}): name the base that it "
                       "belongs to") from error


def _check_file(path: Path) -> None:
    """Raise `BadValue` for a file that is not there, or of a form that could run code."""
    if path.suffix in UNSAFE:
        raise BadValue(f"{path} is no safetensors or GGUF file; other formats can run code, and are not read")
    if not path.is_file():
        raise BadValue(f"there is no file {path}")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, without their values."""
    return _gguf_shapes(path) if path.suffix == ".gguf" else _shapes(path)


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, without their values."""
    with safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118


def _gguf_shapes(path: Path) -> dict[str, torch.Tensor]:
    """The same of a GGUF file."""
    require("gguf")
    from gguf import GGUFReader

    return {one.name: torch.empty([int(side) for side in reversed(one.shape)], device="meta")
            for one in GGUFReader(path).tensors}


def _base(shapes: dict[str, torch.Tensor]) -> str:
    """The repository whose configurations fit a file with these tensors, as diffusers tells it.

    Raises `BadValue` where it does not: what it does not know it takes for Stable Diffusion 1.
    """
    from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, fetch_diffusers_config, infer_diffusers_model_type

    if infer_diffusers_model_type(shapes) == "v1" and CHECKPOINT_KEY_NAMES["v1"] not in shapes:
        raise BadValue("its keys do not tell what model it is: say base=, the folder or hub id of the pipeline that it "
                       "belongs to (--base)")
    return str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Every error of loading as one line: a file may be damaged in any way, and each library has its own for it."""
    try:
        yield
    except Unsupported:
        raise
    except Exception as error:
        hint = "; install emag[lora]" if "peft" in str(error).lower() else ""
        raise BadValue(f"cannot load {what}: {first_line(error)}{hint}") from error


def pipeline_class(name: str, wanted: str) -> Any:
    """The class that a folder or repository names, refused before its weights are fetched."""
    cls: Any = {one.__name__: one for one in (TinyPipeline, ShapesPipeline)}.get(wanted) or getattr(diffusers, wanted, None)
    if not isinstance(cls, type):
        raise Unsupported(f"{name} asks for the pipeline {wanted!r}, which this version of diffusers does not have")
    host_of_class(cls)
    return cls
