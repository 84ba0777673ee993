"""Videos that go on from frames that are there: a network with a noise level a frame, guided by how much it sees of them.

History guidance, arXiv 2502.06764: u + sum_i w_i (e(h at start_i) - e(h at end_i)), where each frame of the history h has a
level from 0 (clean) to 1 (masked by noise), and u has all of them masked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND, FiniteFields
from ..errors import BadValue
from ..maths.streams import Streams
from ..methods.combining.compose import Compose, Term
from .function import Denoiser

Levels = tuple[float, ...]
"""How noisy each frame of the history is shown, from 0, clean, to 1, masked."""
FrameNetwork = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
"""(x [batch, frames, ...], sigma of each frame [batch, frames], condition) -> flow prediction shaped as x."""


@dataclass(frozen=True)
class Segment(FiniteFields):
    """One difference: scale (e(h at start) - e(h at end)). Raises `BadValue` for levels outside [0, 1] or equal ones."""

    scale: float
    start: Levels
    end: Levels

    def __post_init__(self) -> None:
        if len(self.start) != len(self.end) or not self.start or self.start == self.end:
            raise BadValue(f"a segment goes from levels to other ones of as many frames, got {self.start} and {self.end}")
        if not all(0 <= level <= 1 for level in (*self.start, *self.end)):
            raise BadValue(f"levels of a history lie from 0 (clean) to 1 (masked), got {self.start} and {self.end}")


@dataclass(frozen=True)
class HistoryView:
    """What one branch sees: the history at these levels, and whether it is told the condition."""

    levels: Levels
    told: bool = True


def vanilla(frames: int, scale: float = 4.0, clean: float = 0.0) -> tuple[Segment, ...]:
    """HG-v: the whole history against none. Off at 1. 4 is published for RealEstate10K, with a history at `clean` 0.02."""
    return (Segment(scale, (clean,) * frames, (1.0,) * frames),)


def fractional(frames: int, level: float, scale: float = 4.0) -> tuple[Segment, ...]:
    """HG-f: conditional on the clean history, pushed along what it shows at `level`: low frequencies. Off at 1; untested."""
    return (*vanilla(frames, 1.0), Segment(scale - 1, (level,) * frames, (1.0,) * frames))


def temporal(frames: int, parts: Mapping[tuple[int, ...], float]) -> tuple[Segment, ...]:
    """HG-t: several parts of the history, each by the numbers of its frames, from 0, with its scale."""
    if any(not 0 <= at < frames for part in parts for at in part):
        raise BadValue(f"a history of {frames} frames has frames 0 to {frames - 1}, got {list(parts)}")
    return tuple(Segment(scale, tuple(0.0 if at in part else 1.0 for at in range(frames)), (1.0,) * frames)
                 for part, scale in parts.items())


def history_guidance(segments: Sequence[Segment], told: bool = True) -> tuple[dict[str, HistoryView], Compose]:
    """The conditions for `emag.guided`, and the rule, of a sum of segments: base u, all masked, arXiv 2502.06764.

    "cond" is the start of the first segment. Branches of equal levels are one, and those whose weights cancel are not
    evaluated, except "cond". told: whether branches with all frames masked are told the condition too; False drops both
    together, as where one CFG is to act on both.
    """
    counts = {len(one.start) for one in segments}
    if len(counts) != 1:
        raise BadValue(f"a history guidance is a sum of segments of equally many frames, one or more, got {sorted(counts)}")
    masked = (1.0,) * counts.pop()
    if segments[0].start == masked:
        raise BadValue('the first segment starts at what is "cond", which sees some of the history: name another one first')
    names = {segments[0].start: COND, masked: UNCOND}
    for levels in (levels for one in segments for levels in (one.start, one.end)):
        names.setdefault(levels, "history:" + ":".join(f"{level:g}" for level in levels))
    shown = {name: HistoryView(levels, told or name != UNCOND) for levels, name in names.items()}
    return shown, Compose(UNCOND, tuple(Term(one.scale, names[one.start], names[one.end]) for one in segments))


def with_history(network: FrameNetwork, frames: torch.Tensor, condition: Any = None, null: Any = None) -> Denoiser:
    """denoiser(x, sigma, shown) for `emag.guided` on a flow path: x [batch, new frames, ...] after `frames` of a history.

    frames: clean, [batch, frames, ...], or [1, frames, ...] for all. They are shown at the levels of `shown`, with noise
    that is new for each level of the run and the same for its branches, from a stream seeded by their own bytes. The
    network predicts all frames, of which those of x are answered. condition: what it is told; null: what it is told where
    `shown` says that it is not.
    """
    keys = Streams.of(frames).keys

    def denoiser(x: torch.Tensor, sigma: float, shown: HistoryView) -> torch.Tensor:
        if len(shown.levels) != frames.shape[1] or x.shape[2:] != frames.shape[2:] or len(frames) not in (1, len(x)):
            raise BadValue(f"a history of shape {tuple(frames.shape)} does not go before {tuple(x.shape)} at "
                           f"{len(shown.levels)} levels")
        level = torch.tensor(shown.levels, dtype=x.dtype, device=x.device)
        spread = level.view(1, -1, *[1] * (frames.ndim - 2))
        noise = Streams(keys).normal(f"history/{sigma:.9g}", frames).to(x)
        past = ((1 - spread) * frames.to(x) + spread * noise).expand(len(x), *frames.shape[1:])
        sigmas = torch.cat([level, level.new_full((x.shape[1],), sigma)]).expand(len(x), -1)
        told = condition if shown.told else null
        return network(torch.cat([past, x], 1), sigmas, told)[:, frames.shape[1]:]

    return denoiser
