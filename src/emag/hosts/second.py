"""Second networks that a rule names by where they are ("load:examples/guide"): loaded once for each pipeline."""

from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..backbones.read import plain
from ..errors import BadValue
from ..perturbations.other_model import LOAD
from .table import denoisers, lookup

INPUTS = ("in_channels", "joint_attention_dim", "pooled_projection_dim", "cross_attention_dim", "caption_channels",
          "num_embeds_ada_norm")
_LOADED: WeakKeyDictionary[Any, dict[str, torch.nn.Module]] = WeakKeyDictionary()


def second(pipe: Any, own: torch.nn.Module, name: str) -> torch.nn.Module:
    """The network at "load:a folder, hub id or embedded model", in the dtype of the pipeline's `own`, on its device.

    Kept as long as the pipeline is. Raises `BadValue` where it cannot be loaded, or cannot be called with the arguments of
    the pipeline's own.
    """
    held = _LOADED.setdefault(pipe, {})
    if name not in held:
        held[name] = _loaded(name.removeprefix(LOAD), pipe, own)
    return held[name].to(pipe._execution_device)


def _loaded(source: str, pipe: Any, own: Any) -> torch.nn.Module:
    from ..models.load import load

    other = load(source, device="cpu", dtype=own.dtype)
    network: torch.nn.Module = plain(denoisers(other, lookup(other))[0])
    reason = _unfit(own, network) or _foreign(pipe, other)
    if reason:
        raise BadValue(f"{source} cannot be called as the network of this {type(pipe).__name__} is: {reason}")
    return network


def _unfit(own: Any, network: Any) -> str:
    """In what the inputs of two networks differ; "" where in nothing."""
    if type(network) is not type(own):
        return f"it is a {type(network).__name__}, not a {type(own).__name__}"
    differing = [f"{key} is {network.config.get(key)}, not {own.config.get(key)}" for key in INPUTS
                 if network.config.get(key) != own.config.get(key)]
    return ", ".join(differing)


def _foreign(pipe: Any, other: Any) -> str:
    """What else a small model must share: words are trained with the network, and pixels are scaled or encoded."""
    from ..models.pipeline import SmallPipeline

    if not isinstance(pipe, SmallPipeline) or not isinstance(other, SmallPipeline):
        return ""
    if pipe.vae.config.scaling_factor != other.vae.config.scaling_factor:
        return f"its pixels are scaled by {other.vae.config.scaling_factor}, not {pipe.vae.config.scaling_factor}"
    ours, theirs = (one.text_encoder_3 for one in (pipe, other))
    if ours.facts != theirs.facts or not _equal(ours, theirs):
        return "its words mean something else; train it with --words and this model"
    return "" if _equal(pipe.vae, other.vae, "white") else "its latents are another autoencoder's"


def _equal(ours: torch.nn.Module, theirs: torch.nn.Module, start: str = "") -> bool:
    """Whether two modules of one class have the same weights, those whose names begin with `start`."""
    left, right = (module.state_dict() for module in (ours, theirs))
    return all(name in right and torch.equal(value.cpu(), right[name].to(value.dtype)) for name, value in left.items()
               if name.startswith(start))
