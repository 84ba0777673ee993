"""`load`: a pipeline by name: an embedded model, a folder, or a repository on the Hugging Face hub."""

import math
import re
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open

from ..errors import BadValue, Unsupported
from ..models import WEIGHTS, folder
from ..models.folder import first_line
from ..near import nearest
from ..records import fingerprint
from ..records.baked import Baked, read_baked
from . import hub
from .extras import require
from .lookup import denoisers, host_of
from .opening import FILES, INDEX, UNSAFE, ModelSource, loading, open_file, open_folder

_WHAT = {"tiny": "SD3-style transformer, 10.4 M parameters, 32x32 images of the ten CIFAR-10 classes; embedded",
         "shapes": "SD3-style transformer, 5.4 M parameters, 64x64 images of coloured shapes by prompts; embedded"}
MODELS = {name: what for name, what in _WHAT.items() if (WEIGHTS / name).is_dir()}
"""Embedded models and what they are. One whose weights are not in the package is not offered."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".ckpt")
DtypeName = Literal["float32", "float16", "bfloat16"]
Offloading = Literal["model", "sequential"]
DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OFFLOADS = (None, *get_args(Offloading))


def load(name: str | Path = "tiny", *, device: str | torch.device | None = None,
         dtype: DtypeName | torch.dtype | None = None, offload: Offloading | None = None, lora: str | None = None,
         revision: str | None = None, base: str | None = None, pipeline: str | None = None, gguf: str | None = None,
         variant: str | None = None) -> Any:
    """A pipeline ready for `emag.guide`.

    name: "tiny", "shapes", a folder (written by `emag.lab.train` or by `save_pretrained`), a hub id, or one safetensors or
    GGUF file, of which `base` has the rest. device: None is
    CUDA where there is one, else the CPU. dtype: None is float32 for the small models and on the CPU, else bfloat16.
    offload: "model" or "sequential" keeps the weights on the CPU until used. lora: a file, folder or hub id,
    optionally with its weight, ":0.8", or, of one that `emag bake` made, a scale that it learnt, ":w=2".
    revision: of a hub id.
    base, pipeline, gguf, variant: see `ModelSource`. The pipeline's `emag_source` says what was loaded, as plain data, and
    `emag_loaded` has a hash of each network, so that later changes are seen.
    Raises `BadValue` for what cannot be loaded and `Unsupported` for a pipeline that this package does not handle.
    """
    place, number = pick_device(device), pick_dtype(dtype)
    if offload not in OFFLOADS or (offload and place.type == "cpu"):
        raise BadValue(f"offload must be None, 'model' or 'sequential', got {offload!r}" if offload not in OFFLOADS
                       else f"offload={offload!r} needs an accelerator and there is none here; leave it out")
    added = None if lora is None else asked_lora(lora)
    origin = ModelSource(base, pipeline, gguf, variant)
    pipe = _open(str(name), number, place, revision, origin)
    if added is not None:
        _add_lora(pipe, *added)
    pipe.emag_loaded = fingerprint.networks(pipe)
    _put(pipe, place, offload)
    pipe.emag_source = {"model": str(name), "revision": revision, "lora": lora,
                        "dtype": str(denoisers(pipe, host_of(pipe))[0].dtype).removeprefix("torch."), **origin.given}
    return pipe


def _open(name: str, dtype: torch.dtype | None, device: torch.device, revision: str | None,
          origin: ModelSource = ModelSource()) -> Any:  # noqa: B008
    path = WEIGHTS / name if name in MODELS else Path(name).expanduser()
    number = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    if path.suffix in (*FILES, *UNSAFE) and not path.is_dir():
        return open_file(path, number, revision, origin)
    if (path / folder.PROMPT).is_file():
        refuse_parts(name, origin, revision)
        return folder.read_folder(path, dtype or torch.float32)
    if path.is_dir() and not (path / INDEX).is_file():
        raise BadValue(f"folder {name} holds no model: neither {folder.PROMPT} nor {INDEX} is in it")
    if not path.is_dir() and not HUB_ID.fullmatch(name):
        near = nearest(name, MODELS)
        raise BadValue(f"no model {name!r}: " + (f"did you mean {near}? " if near else "")
                       + f"embedded are {', '.join(MODELS)}; else give a folder, or a hub id such as "
                       "stabilityai/stable-diffusion-3.5-medium")
    if path.is_dir() and revision is not None:
        raise BadValue(f"revision={revision!r} is of a hub id, and {name} is a folder here: leave it out")
    return open_folder(str(path) if path.is_dir() else name, number, revision, origin)


def refuse_parts(name: str, origin: ModelSource, revision: str | None) -> None:
    """Raise `BadValue` where a small model of emag's own is said to have parts from elsewhere."""
    given = [*origin.given, *(["revision"] if revision else [])]
    if given:
        raise BadValue(f"{name} is a small model of emag's own: leave out {', '.join(given)}")


def _add_lora(pipe: Any, source: str, weight: float, baked: Baked | None) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise Unsupported(f"{type(pipe).__name__} takes no LoRA")
    path = Path(source).expanduser()
    with loading(f"the LoRA {source}"):
        pipe.load_lora_weights(str(path) if path.exists() else source, adapter_name="lora", use_safetensors=True)
        pipe.set_adapters(["lora"], [weight])
    pipe.emag_baked = baked


def asked_lora(lora: str) -> tuple[str, float, Baked | None]:
    """The source of a LoRA, the weight it is added with, and what guidance is baked in then.

    From "source", "source:0.8", or "source:w=2", the scale of an adapter that `emag bake` taught. Raises `BadValue`.
    """
    source, named, text = lora.rpartition(":w=")
    if not named:
        source, weight = split_scale(lora)
    check_lora(source)
    baked = read_baked(source)
    if named:
        if baked is None:
            raise BadValue(f"no guidance is baked into {source}, so it has no scale w: ask for a weight, {source}:0.8")
        weight = baked.weight(_number(text))
    return source, weight, baked.at(weight) if baked else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"the scale of a LoRA is a number, as in w=2.5, got w={text}") from None


def check_lora(source: str) -> None:
    """Raise `BadValue` where a LoRA is no safetensors file, no folder with one, and not to be had from the hub."""
    require("lora")
    path = Path(source).expanduser()
    with loading(f"the LoRA {source}"):
        if path.is_dir() and not any(path.glob("*.safetensors")):
            raise BadValue("the folder holds no safetensors file")
        if path.is_file() and path.suffix != ".safetensors":
            raise BadValue("it is no safetensors file; other formats can run code, and are not read")
        if not path.exists() and (path.suffix in WEIGHT_FILES or not HUB_ID.fullmatch(source)):
            raise BadValue("there is no such file or folder, and it is no hub id")
        if not path.exists():
            hub.cached_only(source, "pytorch_lora_weights.safetensors", needed=False)
        for file in [path] if path.is_file() else path.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass


def split_scale(lora: str) -> tuple[str, float]:
    """A LoRA's source and its scale, from "source" or "source:scale"."""
    source, colon, text = lora.rpartition(":")
    try:
        scale = float(text) if colon else 1.0
    except ValueError:
        return lora, 1.0
    if not math.isfinite(scale):
        raise BadValue(f"the scale of a LoRA must be a finite number, got {text}")
    return (source if colon else lora), scale


def _put(pipe: Any, device: torch.device, offload: str | None) -> None:
    try:
        if offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)
    except (RuntimeError, ImportError) as error:
        raise BadValue(f"cannot put the model on {device}: {first_line(error)}") from error


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is CUDA where there is one, else the CPU. Raises `BadValue` where it is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise BadValue(f"unknown device {device!r}; use e.g. 'cpu', 'cuda' or 'cuda:1'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BadValue(f"device {str(device)!r} was asked for, but torch finds no CUDA here; use device='cpu'")
    return found


def pick_dtype(dtype: DtypeName | torch.dtype | None) -> torch.dtype | None:
    """A dtype by name or as it is; None stays None. Raises `BadValue` for others than 32 and 16 bit floats."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in DTYPES.values()):
        return dtype
    if isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise BadValue(f"dtype must be one of {', '.join(DTYPES)}, got {str(dtype)!r}")
    return DTYPES[dtype]
