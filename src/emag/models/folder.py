"""A small model on disk: the network as diffusers saves it, the word embedding, and prompt.json. Safetensors only.

prompt.json: free facts such as images_seen, and either vocab, max_length, classes and scale (of pixels in [-1, 1]), or the
name of a world and its vocab; a model of a world has an autoencoder too.
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
from .patches import PatchAutoencoder
from .phrases import PhraseEncoder
from .pipeline import SmallPipeline
from .shapes import ShapesPipeline
from .tiny import PixelVAE, TinyPipeline
from .words import WordEncoder

NETWORK, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
EMBEDDING, PROMPT = "prompt_embedding.safetensors", "prompt.json"
AUTOENCODER, SHAPE = "autoencoder.safetensors", "autoencoder.json"
WORLDS = ("shapes",)


def read(folder: Path, dtype: torch.dtype = torch.float32) -> SmallPipeline:
    """The pipeline saved in `folder`, on the CPU. Raises `BadValue` where a file is missing or does not fit."""
    _present(folder, NETWORK, CONFIG, EMBEDDING, PROMPT)
    try:
        facts = parsed((folder / PROMPT).read_bytes())
        if facts.get("world") is None:
            network = _network(folder, dtype)
            vae = PixelVAE(scaling_factor=float(facts["scale"]), latent_channels=network.config.in_channels)
            return TinyPipeline.build(network, _words(folder, facts, dtype), vae)
        return ShapesPipeline.build(_network(folder, dtype), _phrases(folder, facts, dtype), autoencoder(folder, dtype))
    except BadValue:
        raise
    except Exception as error:  # whatever a damaged file makes torch, diffusers or safetensors say
        raise BadValue(f"model folder {folder} cannot be read: {type(error).__name__}: {first_line(error)}") from error


def _present(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BadValue(f"model folder {folder} lacks {', '.join(missing)}")


def autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> PatchAutoencoder:
    """The autoencoder saved in `folder`, on the CPU. Raises `BadValue` where a file is missing or does not fit."""
    _present(folder, AUTOENCODER, SHAPE)
    try:
        model = PatchAutoencoder.from_config(parsed((folder / SHAPE).read_bytes()))
        model.load_state_dict(_weights(folder / AUTOENCODER, dtype), assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadValue(f"the autoencoder in {folder} cannot be read: {type(error).__name__}: {first_line(error)}") from error
    return model.eval()


def _network(folder: Path, dtype: torch.dtype) -> SD3Transformer2DModel:
    network = SD3Transformer2DModel.from_config(parsed((folder / CONFIG).read_bytes()))
    network.load_state_dict(_weights(folder / NETWORK, dtype), assign=True)
    return network.eval()


def _words(folder: Path, facts: Mapping[str, Any], dtype: torch.dtype) -> WordEncoder:
    weights = _weights(folder / EMBEDDING, dtype)
    words = WordEncoder(facts["vocab"], facts["classes"], facts["max_length"], weights["weight"].shape[1])
    words.embedding.load_state_dict(weights, assign=True)
    return words.eval()


def _phrases(folder: Path, facts: Mapping[str, Any], dtype: torch.dtype) -> PhraseEncoder:
    if facts["world"] not in WORLDS:
        raise BadValue(f"model folder {folder} is of the world {facts['world']!r}; known are {', '.join(WORLDS)}")
    weights = _weights(folder / EMBEDDING, dtype)
    words = PhraseEncoder(weights["place.weight"].shape[1])
    if tuple(facts["vocab"]) != words.facts[0]:
        raise BadValue(f"model folder {folder} has other words than this version's world: train it again")
    words.load_state_dict(weights, assign=True)
    return words.eval()


def _weights(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: value.to(dtype) for name, value in load_file(path).items()}


def write(folder: Path, config: Mapping[str, Any], network: dict[str, torch.Tensor], words: dict[str, torch.Tensor],
          facts: Mapping[str, Any]) -> None:
    """Save a model in 16 bits; each file appears whole or not at all. `facts` become prompt.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / NETWORK, {name: value.to(torch.bfloat16) for name, value in network.items()})
    save_tensors(folder / EMBEDDING, {name.removeprefix("embedding."): value.to(torch.bfloat16)
                                      for name, value in words.items()})
    save_json(folder / CONFIG, config)
    save_json(folder / PROMPT, facts)


def write_autoencoder(folder: Path, model: PatchAutoencoder) -> None:
    """Save an autoencoder in 16 bits, its linear maps that make latents white apart: they stay fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / AUTOENCODER, {name: value if name.startswith(("white", "colour")) else value.to(torch.float16)
                                        for name, value in model.state_dict().items()})
    save_json(folder / SHAPE, json.loads(model.to_json_string()))


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
