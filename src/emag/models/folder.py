"""A small model on disk: the network as diffusers saves it, the word embedding, and prompt.json. Safetensors only.

prompt.json: vocab, max_length, scale (of pixels in [-1, 1]), classes, and free facts such as images_seen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import BadValue
from ..files import parsed, whole
from .tiny import TinyPipeline
from .words import WordEncoder

NETWORK, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
EMBEDDING, PROMPT = "prompt_embedding.safetensors", "prompt.json"


def read(folder: Path, dtype: torch.dtype = torch.float32) -> TinyPipeline:
    """The pipeline saved in `folder`, on the CPU. Raises `BadValue` where a file is missing or does not fit."""
    missing = [name for name in (NETWORK, CONFIG, EMBEDDING, PROMPT) if not (folder / name).is_file()]
    if missing:
        raise BadValue(f"model folder {folder} lacks {', '.join(missing)}")
    try:
        facts = parsed((folder / PROMPT).read_bytes())
        return TinyPipeline.build(_network(folder, dtype), _words(folder, facts, dtype), float(facts["scale"]))
    except Exception as error:  # whatever a damaged file makes torch, diffusers or safetensors say
        raise BadValue(f"model folder {folder} cannot be read: {type(error).__name__}: {first_line(error)}") from error


def _network(folder: Path, dtype: torch.dtype) -> SD3Transformer2DModel:
    network = SD3Transformer2DModel.from_config(parsed((folder / CONFIG).read_bytes()))
    network.load_state_dict(_weights(folder / NETWORK, dtype), assign=True)
    return network.eval()


def _words(folder: Path, facts: Mapping[str, Any], dtype: torch.dtype) -> WordEncoder:
    weights = _weights(folder / EMBEDDING, dtype)
    words = WordEncoder(facts["vocab"], facts["classes"], facts["max_length"], weights["weight"].shape[1])
    words.embedding.load_state_dict(weights, assign=True)
    return words.eval()


def _weights(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: value.to(dtype) for name, value in load_file(path).items()}


def write(folder: Path, config: Mapping[str, Any], network: dict[str, torch.Tensor], embedding: torch.Tensor,
          facts: Mapping[str, Any]) -> None:
    """Save a model in 16 bits; each file appears whole or not at all. `facts` become prompt.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / NETWORK, {name: value.to(torch.bfloat16) for name, value in network.items()})
    save_tensors(folder / EMBEDDING, {"weight": embedding.to(torch.bfloat16)})
    save_json(folder / CONFIG, config)
    save_json(folder / PROMPT, facts)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    with whole(path) as draft:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft,
                      metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # a full disk among them
            raise BadValue(f"cannot write to {path}: {first_line(error)}") from error


def save_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    with whole(path) as draft:
        draft.write_text(json.dumps(dict(data), indent=1) + "\n")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without trailing colons."""
    return next((line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()), type(error).__name__)
