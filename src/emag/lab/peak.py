"""What the largest evaluation that an energy differentiates keeps in memory, before any weight is read.

A small call of the network, its width and depth as they are, is differentiated on tensors without values; what is alive is
counted, in float32, and grows in proportion to the tokens. The decoder likewise, in proportion to the pixels.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..engine.checkpointing import checkpointed, switches
from ..engine.reading import read_network
from ..engine.undo import Undo, undone
from ..models.patches import PatchAutoencoder
from .doctor.unknown.made_up import ROWS, TEXT, made_up
from .doctor.unknown.unreadable import Unreadable
from .live import LiveBytes

SIDE = 16
"""Rows and columns of the latents that a decoder is tried on."""
DECODERS: dict[str, Any] = {name: getattr(diffusers, name) for name in ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")}
DECODERS["PatchAutoencoder"] = PatchAutoencoder


@dataclass(frozen=True)
class Kept:
    """Bytes beside the weights: held between the forward and the backward pass, and the most there are at once."""

    held: float
    most: float

    def times(self, factor: float) -> "Kept":
        """The same for so many times the tokens, the pixels or the rows."""
        return Kept(self.held * factor, self.most * factor)

    def before(self, after: "Kept") -> float:
        """The most there are where what comes next, backward first, is `after`."""
        return max(self.held + after.most, self.most)


def of_network(cls: type, config: Mapping[str, Any], tokens: tuple[int, int], rows: int) -> tuple[Kept, Kept] | None:
    """Of a network by its configuration, for `rows` rows of (image, text) tokens, evaluated one after the other: as it is,
    and checkpointed. None where no call of its class can be made up.
    """
    with _without_values():
        module: Any = cls.from_config(config).eval()  # type: ignore[attr-defined]
        try:
            call = made_up(module)
        except Unreadable:
            return None
        values, network = dict(call.arguments), read_network(module)
        share = sum(tokens) / (network.image_tokens(values) + (TEXT if tokens[1] else 0)) / ROWS
        x = values.pop(call.sample)
        plain, kept = differentiated(module, lambda leaf: module(**{**values, call.sample: leaf}), x)
    return _rows(plain.times(share), rows), _rows(kept.times(share), rows)


def _rows(one: Kept, rows: int) -> Kept:
    """Of several such: a backward pass goes through the part of one after that of the other."""
    return Kept(one.held * rows, one.held * (rows - 1) + one.most)


def of_decoder(config: Mapping[str, Any], pixels: int, images: int, draws: int = 1) -> tuple[Kept, Kept] | None:
    """Of an autoencoder by its configuration, for `images` of so many pixels, `draws` times: as it is, and checkpointed.

    None for classes that are not known.
    """
    name = str(config.get("_class_name"))
    if name == "PixelVAE":
        return Kept(0, 0), Kept(0, 0)
    if name not in DECODERS:
        return None
    with _without_values():
        module: Any = DECODERS[name].from_config(config).eval()
        latents = torch.zeros(1, int(config["latent_channels"]), SIDE, SIDE)
        made = module.decode(latents, return_dict=False)[0]
        found = differentiated(module, lambda leaf: module.decode(leaf, return_dict=False), latents)
    share = images * pixels / (made.shape[-1] * made.shape[-2])
    return _rows(found[0].times(share), draws), _rows(found[1].times(share), draws)


def differentiated(module: torch.nn.Module, call: Callable[[torch.Tensor], Any], x: torch.Tensor) -> tuple[Kept, Kept]:
    """What `call` of x and its backward pass keep, as a run makes them: as they are, and checkpointed."""
    module.requires_grad_(False)
    leaf = x.detach().clone().requires_grad_()

    def counted(checkpoint: bool, undo: Undo) -> Kept:
        if checkpoint:
            checkpointed(module, undo)
        with LiveBytes() as live:
            found = call(leaf)
            while not isinstance(found, torch.Tensor):
                found = next(iter(found.values() if hasattr(found, "values") else found))
            held = live.now
            torch.autograd.grad(found, leaf, torch.ones_like(found))
        return Kept(held, live.peak)

    plain = undone(partial(counted, False))
    return plain, undone(partial(counted, True)) if switches(module) else plain


@contextmanager
def _without_values() -> Iterator[None]:
    """Tensors made inside have shapes and no values; what is tried in vain is not told."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        logger.disabled = before
