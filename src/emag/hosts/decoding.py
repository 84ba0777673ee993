"""Clean samples as images: what a pipeline's VAE makes of them at the end of a call, with gradients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..core import PLENTY, Part, Rule, Sparing
from ..engine.checkpointing import check_can, checkpointed, each_call, freeze, frozen, switches
from ..engine.network import Network
from ..engine.undo import Undo, undone
from ..errors import BadValue, Unsupported
from ..maths.energies import ordinary
from ..maths.layout import OnGrid, unpack
from .films import APART, FILMS, STILLS, WHOLES, check_film, film_of, frames_of, pictures_of, still_of
from .latents import unscaled
from .small_decoder import decoder_of

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLFlux2", "AutoencoderKLHunyuanImage",
           "PixelVAE", "PatchAutoencoder")
"""Autoencoders of single images that record gradients; their latents are scaled as the configuration says."""
CUT = "latent_concat"
"""What pipelines of HunyuanVideo from a picture call it where the picture's frames stand before the video's."""
KNOWN = (*CLASSES, *FILMS, *WHOLES, *STILLS)
OTHERWISE = {
    "ErnieImagePipeline": "its batch norm has another epsilon than its autoencoder says",
    "HunyuanImageRefinerPipeline": "its latents are two frames in the channels of one"}
"""Pipelines that make something else of their last latents, and what."""


def decode(pipe: Any, x0: torch.Tensor, step: OnGrid | None = None, part: Part | None = None,
           sparing: Sparing = PLENTY) -> torch.Tensor:
    """Images [batch, 3, height, width] in [0, 1] of clean latents [batch, ...], as `pipe` makes them of its last ones.

    Of a video's latents [batch, channels, frames, height, width] it is a video, [batch, 3, frames, height, width]; or, where
    a score looks at a `part`, its frames alone, in their order. step: tells the grid of latents that are a sequence of
    patches. sparing: see `Sparing`. Where the user has asked the autoencoder for slices or tiles, a backward pass decodes
    them again one after the other. Raises `Unsupported` where the pipeline has no such autoencoder.
    """
    check_decoder(pipe)
    latents = x0 if step is None else unpack(x0, step)
    if type(pipe.vae).__name__ in (*FILMS, *WHOLES):
        check_film(pipe, latents)
        if part is None:
            return film_of(pipe.vae, latents)
        return torch.stack(frames_of(pipe.vae, latents, part.frames, part.before), 2)
    if type(pipe.vae).__name__ in STILLS and latents.ndim == 4:
        return still_of(pipe.vae, latents)
    image = partial(_decoded, pipe, sparing)
    if latents.ndim == 5 and type(pipe).__name__.startswith(APART):
        return pictures_of(image, latents, None if part is None else part.frames)
    if latents.ndim != 4:
        raise Unsupported(f"{type(pipe).__name__} makes latents with {latents.ndim - 2} dimensions beside the channels, and "
                          "scores are of single images: write a loop with emag.guided(..., decode=...)")
    return image(latents)


def _decoded(pipe: Any, sparing: Sparing, latents: torch.Tensor) -> torch.Tensor:
    """Images [batch, 3, height, width] of the latents of single ones."""
    return undone(partial(_image_of, decoder_of(pipe, sparing.decoder), latents, sparing.checkpoint))


def _image_of(vae: Any, latents: torch.Tensor, checkpoint: bool, undo: Undo) -> torch.Tensor:
    if torch.is_grad_enabled() and latents.requires_grad:
        freeze(vae, undo)
        if getattr(vae, "use_slicing", False) or getattr(vae, "use_tiling", False):
            each_call(vae.decoder, undo, partial(frozen, vae))
        elif checkpoint:
            checkpointed(vae, undo, partial(frozen, vae))
    scaled = unscaled(vae, latents).to(next(vae.parameters()).dtype)
    pixels = vae.decode(ordinary(scaled), return_dict=False)[0]
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def check_looking(pipe: Any, rules: Sequence[Rule], networks: Sequence[Network]) -> None:
    """Raise `Unsupported` and `BadValue` where rules that look further cannot see images here, or not as sparing as they
    say."""
    for rule in rules:
        if not rule.looks_further:
            continue
        check_decoder(pipe)
        sparing = Sparing.of(rule)
        if sparing.decoder is not None:
            decoder_of(pipe, sparing.decoder)
        if sparing.checkpoint and getattr(rule, "through_network", False):
            for network in networks:
                check_can(network.module)
        elif sparing.checkpoint and not _has_parts(decoder_of(pipe, sparing.decoder)):
            raise BadValue(f"{rule.name} checkpoint=true has no effect: the network is not differentiated here, and "
                           f"{type(pipe.vae).__name__} cannot be checkpointed: leave it out")


def _has_parts(vae: Any) -> bool:
    """True where a decoder's parts can be evaluated again; those of videos keep what came before from part to part."""
    return type(vae).__name__ not in (*FILMS, *WHOLES, *STILLS) and bool(switches(vae))


def check_decoder(pipe: Any) -> None:
    """Raise `Unsupported` for a pipeline whose autoencoder is not known to decode with gradients."""
    vae = getattr(pipe, "vae", None)
    why = OTHERWISE.get(type(pipe).__name__)
    if vae is None or type(vae).__name__ not in KNOWN:
        why = f"{'it has no VAE' if vae is None else f'its VAE is {type(vae).__name__}'}; known are {', '.join(KNOWN)}"
    elif getattr(vae.config, "timestep_conditioning", False):
        why = "its decoder is told a time, and given noise, by arguments of the call"
    elif getattr(getattr(getattr(pipe, "transformer", None), "config", None), "image_condition_type", None) == CUT:
        why = "it cuts the first frames off, those of the given picture"
    if why is not None:
        raise Unsupported(f"a score sees decoded images, and emag does not know how {type(pipe).__name__} decodes with "
                          f"gradients ({why}): use emag.guided(..., decode=...) around a function")
