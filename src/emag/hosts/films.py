"""Clean samples as videos, or as some of their frames alone: what a causal video autoencoder makes of a few latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import Unsupported
from ..maths.energies import ordinary
from ..scores.films import place
from .latents import unscaled

EVERY = 4
"""Frames of a latent, but for the first one, which is a frame alone."""


@dataclass(frozen=True)
class FilmDecoder:
    """How a class of autoencoders decodes latents [batch, channels, frames, height, width] whose first frame is a latent.

    before: latents before that of a frame that Frame Guidance decodes with it (arXiv 2506.07177). chunks: it decodes so many
    latents at a time; where that is above 1, the first time one more.
    """

    before: int
    chunks: int = 1

    def latents(self, frame: int, count: int, before: int | None) -> tuple[int, int, int]:
        """(first latent, the one behind the last, the frame's number among theirs), of `count` latents.

        before: latents before the frame's own to decode with it; None is all of them, by which a causal decoder gives the
        very frame.
        """
        own = 0 if frame == 0 else (frame - 1) // EVERY + 1
        if before is not None and own > before:
            first = own - before
            # the first latent of a slice is decoded as a frame alone
            return first, own + 1, 1 + (before - 1) * EVERY + (frame - 1) % EVERY if before else 0
        # from the beginning, to the end of the chunk, which is decoded as a whole: the first has one latent more
        chunk = max(0, -(-own // self.chunks) - 1) if self.chunks > 1 else own - 1
        return 0, min(count, 1 + (chunk + 1) * self.chunks), frame


FILMS = {"AutoencoderKLWan": FilmDecoder(1), "AutoencoderKLCogVideoX": FilmDecoder(2, 2)}
"""Causal autoencoders of videos that record gradients, by class."""
WHOLES = ("AutoencoderKLHunyuanVideo", "AutoencoderKLHunyuanVideo15", "AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video",
          "AutoencoderKLMochi", "AutoencoderKLMagvit")
"""Autoencoders of videos whose frames all depend on all latents, by norms over the frames or by looking ahead."""
LONELY = ("AutoencoderKLHunyuanVideo15",)
"""Autoencoders that fail on several videos at once."""
APART = ("AnimateDiff", "PIA", "Latte", "TextToVideoSD", "VideoToVideoSD", "I2VGenXL")
"""Pipelines of videos, by how their names begin, whose frames are decoded apart, by an autoencoder of images."""


def frames_of(vae: Any, latents: torch.Tensor, frames: Sequence[int], before: int | None = None) -> list[torch.Tensor]:
    """Some frames, each [batch, 3, height, width] in [0, 1], of clean latents [batch, channels, frames, height, width].

    Each is decoded from the latents that it depends on alone: `FilmDecoder.latents`.
    """
    if type(vae).__name__ in WHOLES:
        return _of_whole(vae, latents, frames, before)
    decoder, count = FILMS[type(vae).__name__], latents.shape[2]
    if count % decoder.chunks != 1 % decoder.chunks:
        raise Unsupported(f"{type(vae).__name__} decodes {count} latents to videos without a first frame alone: use a "
                          f"number of frames of which {decoder.chunks * EVERY} leave 1")
    found = []
    for at in frames:
        first, behind, inside = decoder.latents(place(at, 1 + (count - 1) * EVERY), count, before)
        found.append(film_of(vae, latents[:, :, first:behind])[:, :, inside])
    return found


def _of_whole(vae: Any, latents: torch.Tensor, frames: Sequence[int], before: int | None) -> list[torch.Tensor]:
    if before is not None:
        raise Unsupported(f"all frames of {type(vae).__name__} depend on all latents, and the video is decoded as a whole: "
                          "leave before out")
    film = film_of(vae, latents)
    return [film[:, :, place(at, film.shape[2])] for at in frames]


def pictures_of(image: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor,
                frames: Sequence[int] | None = None) -> torch.Tensor:
    """The video [batch, 3, frames, height, width] of latents [batch, channels, frames, height, width], each frame apart.

    image: latents of single images -> images. frames: those to decode, in their order; None is all.
    """
    count = latents.shape[2]
    those = latents if frames is None else latents[:, :, [place(at, count) for at in frames]]
    made = image(those.movedim(2, 1).flatten(0, 1))
    return made.unflatten(0, (len(latents), -1)).movedim(1, 2)


def film_of(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The video [batch, 3, frames, height, width] in [0, 1] of clean latents, as its pipeline makes it."""
    scaled = ordinary(unscaled(vae, latents).to(next(vae.parameters()).dtype))
    parts = scaled.split(1 if type(vae).__name__ in LONELY else len(scaled))
    film = torch.cat([vae.decode(part, return_dict=False)[0] for part in parts])
    return (film.float() / 2 + 0.5).clamp(0, 1)


STILLS = ("AutoencoderKLQwenImage",)
"""Autoencoders of videos by which pipelines decode single images."""


def still_of(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The images [batch, 3, height, width] in [0, 1] of clean latents [batch, channels, height, width]: first frames."""
    scaled = unscaled(vae, latents[:, :, None]).to(next(vae.parameters()).dtype)
    return (vae.decode(ordinary(scaled), return_dict=False)[0][:, :, 0].float() / 2 + 0.5).clamp(0, 1)


def usual_context(vae: Any) -> int:
    """Latents before a frame's own that the authors of Frame Guidance decode with it."""
    return FILMS[type(vae).__name__].before


def check_film(pipe: Any, latents: torch.Tensor) -> None:
    """Raise `Unsupported` for latents that are no video's."""
    if latents.ndim != 5:
        raise Unsupported(f"{type(pipe).__name__} makes videos, and its latents here have {latents.ndim - 2} dimensions "
                          "beside the channels: write a loop with emag.guided(..., decode=...)")
