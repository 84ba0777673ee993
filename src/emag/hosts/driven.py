"""Video and sound made together, each guided away from what the other, kept still or mute, would drive it to.

SyncCFG of Harmony, arXiv 2511.21579: for each stream d + w (j - d), j its prediction where both are in the making, d the one
beside a clean null of the other at time 0: a static video, or silence. For networks with a time for each stream that were
trained with one of them clean, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND
from ..errors import BadValue
from ..methods.combining.compose import Compose, Term
from ..schedules import Scale
from .function import Denoiser

Both = tuple[torch.Tensor, torch.Tensor]
"""Video and sound, each [batch, ...]."""
JointNetwork = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any], Both]
"""(video, sound, sigma of each video [batch], sigma of each sound [batch], condition) -> predictions of both."""


@dataclass(frozen=True)
class Driven:
    """What one branch evaluates: both streams together, or those named here, each driven by the null of the other."""

    video: bool = False
    sound: bool = False


def packed(video: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
    """Both streams as one x for `emag.sample`, [batch, 1, numbers]."""
    return torch.cat([video.flatten(1), sound.flatten(1)], 1)[:, None]


def unpacked(x: torch.Tensor, static: torch.Tensor, mute: torch.Tensor) -> Both:
    """`packed` undone: streams shaped as `static` and `mute` [1 or batch, ...]. Raises `BadValue` for another size."""
    sizes = [math.prod(null.shape[1:]) for null in (static, mute)]
    if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] != sum(sizes):
        raise BadValue(f"x has shape {tuple(x.shape)}; video and sound as packed(video, sound) have "
                       f"[batch, 1, {sizes[0]} + {sizes[1]}]")
    video, sound = x[:, 0].split(sizes, 1)
    return video.reshape(-1, *static.shape[1:]), sound.reshape(-1, *mute.shape[1:])


def sync_guidance(static: torch.Tensor, mute: torch.Tensor, video: Scale = 3.0,
                  sound: Scale = 3.0) -> tuple[dict[str, Driven], dict[str, torch.Tensor], Compose]:
    """Conditions and masks for `emag.guided`, and the rule, of SyncCFG, arXiv 2511.21579: d + w (j - d) in each stream.

    static, mute: the nulls, as in `with_driven`. video, sound: scale of each stream, 1 is off; a stream at 1 costs no pass.
    The paper's scales are unconfirmed: 3 is an untested default.
    """
    sizes = [math.prod(null.shape[1:]) for null in (static, mute)]
    first = torch.arange(sum(sizes)) < sizes[0]
    masks = {"video": first.float(), "sound": (~first).float()}
    driven = Driven(video != 1, sound != 1)
    terms = [Term(scale, COND, UNCOND, name) for scale, name in ((video, "video"), (sound, "sound"))]
    rule = Compose(UNCOND, (Term(video, COND, UNCOND),) if video == sound else tuple(terms))
    return {COND: Driven(), UNCOND: driven}, masks, rule


def with_driven(network: JointNetwork, static: torch.Tensor, mute: torch.Tensor, condition: Any = None) -> Denoiser:
    """denoiser(x, sigma, driven) for `emag.guided`, of x `packed` from both streams.

    static, mute: latents of a still video and of silence, clean, [1 or batch, ...]. condition: what the network is told in
    all passes. The driven branch is a call of the network for each stream that is driven.
    """
    def denoiser(x: torch.Tensor, sigma: float, driven: Driven) -> torch.Tensor:
        video, sound = unpacked(x, static, mute)
        now, clean = x.new_full((len(x),), sigma), x.new_zeros(len(x))
        if driven == Driven():
            return packed(*network(video, sound, now, now, condition))
        still, silence = (null.to(x).expand(len(x), *null.shape[1:]) for null in (static, mute))
        # what a stream without guidance is given here has no weight
        seen = network(video, silence, now, clean, condition)[0] if driven.video else torch.zeros_like(video)
        heard = network(still, sound, clean, now, condition)[1] if driven.sound else torch.zeros_like(sound)
        return packed(seen, heard)

    return denoiser
