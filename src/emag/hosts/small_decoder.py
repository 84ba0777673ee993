"""Another decoder in the place of a pipeline's own, for scores: a small approximate one (TAESD) takes less memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import torch

from ..errors import BadValue
from . import hub
from .opening import loading

DECODERS = ("AutoencoderTiny", "AutoencoderKL", "AutoencoderDC")
"""Classes of autoencoders of single images that can stand in for one another: their latents are scaled as they say."""

_OPENED: WeakKeyDictionary[Any, dict[str, torch.nn.Module]] = WeakKeyDictionary()


def decoder_of(pipe: Any, decoder: str | Callable[..., Any] | None) -> Any:
    """What decodes for scores: the pipeline's own autoencoder, another object, or the one in a folder or of a hub id.

    Read once for each pipeline, in the dtype of its own, on its device. Raises `BadValue` for what cannot decode the
    pipeline's latents.
    """
    if decoder is None:
        return pipe.vae
    if not isinstance(decoder, str):
        return _fitting(pipe, decoder, type(decoder).__name__)
    held = _OPENED.setdefault(pipe, {})
    if decoder not in held:
        held[decoder] = _fitting(pipe, _opened(decoder, next(pipe.vae.parameters()).dtype), decoder)
    return held[decoder].to(pipe._execution_device)


def _opened(name: str, dtype: torch.dtype) -> Any:
    """The autoencoder in a folder or of a hub id, from safetensors."""
    with loading(f"the decoder {name}"):
        where: dict[str, Any] = {} if Path(name).is_dir() else {"local_files_only": hub.cached_only(name, "config.json")}
        config: Any = diffusers.AutoencoderTiny.load_config(name, **where)
        wanted = str(config.get("_class_name"))
        if wanted not in DECODERS:
            raise BadValue(f"it is a {wanted}; a decoder is one of {', '.join(DECODERS)}")
        cls: Any = getattr(diffusers, wanted)
        return cls.from_pretrained(name, dtype=dtype, use_safetensors=True, **where).eval()


def _fitting(pipe: Any, decoder: Any, name: str) -> Any:
    """`decoder`, where it decodes latents like those of the pipeline. Raises `BadValue`."""
    if type(decoder).__name__ not in DECODERS:
        raise BadValue(f"{name} is no decoder: it is one of {', '.join(DECODERS)}, or the folder or hub id of one")
    if type(pipe.vae).__name__ not in DECODERS:
        raise BadValue(f"the {type(pipe.vae).__name__} of this {type(pipe).__name__} has no other decoder: leave it out")
    ours, theirs = (int(one.config.latent_channels) for one in (pipe.vae, decoder))
    if ours != theirs:
        raise BadValue(f"{name} decodes latents of {theirs} channels, and those of this {type(pipe).__name__} have {ours}: "
                       "name the decoder that was trained for them")
    return decoder
