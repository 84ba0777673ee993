"""Frequency gains on the push of guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import RunStart, Step
from ...errors import BadValue
from ...maths.layout import from_planes, planes
from ..common.scaled import Scaled


@dataclass(frozen=True)
class FreSca(Scaled):
    """FreSca: CFG whose push has one gain for low frequencies and another for high ones.

    The Fourier transform of D = p - u over height and width (each frame of a video) is multiplied by `low` inside a
    square around the mean, and by `high` outside. Linear in D, so the same in every space. The square is symmetric, as
    a real image needs it; the authors' is not by one row and one column.

    Args:
        scale: w, at least 0, or a schedule. None takes the model's default.
        low: gain of low frequencies, at least 0; 1 leaves them.
        high: gain of high frequencies, at least 0; 1 leaves them. 1.2 for SD3, 1.25 in ComfyUI, 1.5 for SDXL.
        cutoff: half the side of the square as a share of the highest frequency, in [0, 1); 0 is the mean alone. ComfyUI's
            20 cycles of latents of 128 are 0.31.
        adaptive: 0 takes `cutoff`. In (0, 1) half the side is the fewest cycles that hold this share of the magnitude along
            each axis, counted from the mean outwards, from 3 cycles to a quarter of the shorter side; for each sample
            by itself, where the authors count from the far end and over the batch. 0.2 in their code, 0.5 to 0.9 on
            their page.

    >>> import emag
    >>> emag.FreSca(4.0, high=1.25).equation
    'u + w F^-1(gain F D)'
    """

    low: float = 1.0
    high: float = 1.25
    cutoff: float = 0.3125
    adaptive: float = 0.0

    name = "fresca"
    paper = "arXiv 2504.02154"
    equation = "u + w F^-1(gain F D)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low < 0 or self.high < 0 or not (0 <= self.cutoff < 1 and 0 <= self.adaptive < 1):
            raise BadValue("fresca low and high must be at least 0, cutoff and adaptive in [0, 1), got "
                           f"{self.low}, {self.high}, {self.cutoff}, {self.adaptive}")

    def fits_run(self, start: RunStart) -> None:
        planes(start.first.x, start.first)

    def reads_null(self, step: Step) -> bool:
        return super().reads_null(step) or not self.low == self.high == 1

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        push = pred - null
        return pred + (scale - 1) * push + scale * self._gained(push, step)

    def _gained(self, push: torch.Tensor, step: Step) -> torch.Tensor | float:
        """What the gains add to the push."""
        if self.low == self.high == 1:
            return 0.0
        spectrum = torch.fft.fft2(planes(push, step))
        rows, columns = (cycles(n, push.device) for n in spectrum.shape[-2:])
        down, across = self._band(spectrum)
        low = (rows[:, None] <= down) & (columns <= across)
        gain = torch.where(low, self.low, self.high) - 1
        return from_planes(torch.fft.ifft2(spectrum * gain).real, step, push)

    def _band(self, spectrum: torch.Tensor) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Half the sides of the band of low frequencies, in cycles, down and across; found per sample where adaptive."""
        height, width = spectrum.shape[-2:]
        if not self.adaptive:
            return self.cutoff * height / 2, self.cutoff * width / 2
        most = min(height, width) // 4
        return holding(spectrum[..., 0], self.adaptive, most), holding(spectrum[..., 0, :], self.adaptive, most)


def cycles(n: int, device: torch.device) -> torch.Tensor:
    """Cycles over a side of `n` places of each entry of its transform, without sign; [n]."""
    return (torch.fft.fftfreq(n, device=device) * n).abs().round()


def holding(line: torch.Tensor, share: float, most: int) -> torch.Tensor:
    """The fewest cycles that hold `share` of the magnitude of `line` [batch, planes, n], at least 3; [batch, 1, 1, 1]."""
    sizes = line.abs().sum(1)
    at = cycles(line.shape[-1], line.device).long()
    held = torch.zeros_like(sizes).index_add_(1, at, sizes).cumsum(1)
    fewest = (held < share * held[:, -1:]).sum(1).clamp(max=max(3, most))
    return fewest.clamp(min=3).view(-1, 1, 1, 1)
