"""RectifID: a search for where the windows of a run should end, anchored to the run without guidance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import BadValue
from ..maths.streams import Streams
from ..maths.vectors import capped
from .base import GuidedModel
from .searches import Memory, Search, checkpointed_step


@dataclass(frozen=True)
class Anchored(Search):
    """RectifID, arXiv 2405.14677: ends of windows move by gradients, anchored to the run without guidance.

    What is searched is [batch, 1 + N, ...]: a first noise that stays what it is, and for each of N windows by how much its
    end is moved, as `windowed` makes it and `windowed_run` reads it. After a run with the gradient g_i of the score at the
    start of window i, its end is moved by rate c_i g_i / max(1, |g_i|) more. On one straight window that is gradient ascent
    of the end point, whose fixed point is the score's own maximum.

    steps: K, runs after the first; 50 is the spec's number, the paper's is unconfirmed. rate: s, 1 is the authors'. weights:
    c_i of each window, 1 where there are none; the authors' eta_s / lambda_s on PeRFlow, a constant .958 in part of their
    code. clip: norm from which g is scaled down, per sample; 0 is none.
    """

    steps: int = 50
    rate: float = 1.0
    weights: tuple[float, ...] = ()
    clip: float = 1.0

    name = "anchored"
    differentiates = True

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.rate, self.clip) < 0:
            raise BadValue(f"anchored steps, rate and clip must be at least 0, got {self}")

    @property
    def rounds(self) -> int:
        return self.steps

    def following(self, memory: Memory, gradient: torch.Tensor | None, at: int, streams: Streams) -> Memory:
        assert gradient is not None, "a search that differentiates is given gradients"
        x = memory["x"]
        windows = x.shape[1] - 1
        if windows < 1 or len(self.weights) not in (0, windows):
            raise BadValue(f"anchored searches [batch, 1 + windows, ...], as windowed(x, windows) makes it, with no weights "
                           f"or {windows}, got {list(x.shape)} and {len(self.weights)} weights")
        moved = x.clone()
        for i, weight in enumerate(self.weights or (1.0,) * windows):
            # entry i of the gradient is that at the start of window i; entry i + 1 of x is what its end is moved by
            moved[:, i + 1] += self.rate * weight * capped(gradient[:, i], self.clip)
        return {"x": moved}


def windowed(x: torch.Tensor, windows: int) -> torch.Tensor:
    """What `Anchored` searches, [batch, 1 + windows, ...]: first noises x [batch, ...], and ends that are not moved yet."""
    if windows < 1:
        raise BadValue(f"a run has at least 1 window, got {windows}")
    return torch.stack([x, *[torch.zeros_like(x)] * windows], 1)


def windowed_run(model: GuidedModel, windows: int, scale: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """Runs from [batch, 1 + windows, ...] to the last x [batch, ...], the end of each window moved; as `differentiable`.

    The steps of the model's path are shared out evenly: N windows of as many steps each. PeRFlow has 4.
    """
    each, left = divmod(len(model.path), windows)
    if left or not each:
        raise BadValue(f"{len(model.path)} steps cannot be parted into {windows} windows of as many steps each")
    step = checkpointed_step(model, scale)

    def run(v: torch.Tensor) -> torch.Tensor:
        if v.ndim < 2 or v.shape[1] != windows + 1:
            raise BadValue(f"a run in {windows} windows is from [batch, {windows + 1}, ...], got {list(v.shape)}: see "
                           "windowed")
        x = v[:, 0]
        for i in range(len(model.path)):
            x = step(x, i)
            if (i + 1) % each == 0:
                x = x + v[:, (i + 1) // each]
        return x

    return run
