"""How the running average E of an attention map is kept: in full, or in 16 or 8 bits an entry, rounded with dither.

An update moves E by 1 - beta of the way, 1.2 %: less than half a step of a short format, so that rounding to the nearest
number would freeze E. Here a number between two codes goes up where u < its share of the gap. u is spread evenly over
the updates, so that errors cancel (2 to 3 times smaller ones than with random u; a bias of 1 % of the way is left over 200
updates), and depends on head, row, column and update alone, never on the sample.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

MapFormat = Literal["auto", "float32", "scaled16", "scaled8"]
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "scaled16": 2, "scaled8": 1}
# frac(sqrt 7), frac(sqrt 3), frac(sqrt 2) and the golden ratio times 2^32: independent, and badly approximable by fractions
HEAD, ROW, COLUMN, UPDATE = 0xA54FF53A, 0xBB67AE85, 0x6A09E667, 0x9E3779B9
WORD, FINE = 2**32, 24  # the formula is taken modulo WORD, its upper FINE bits are used
DROPPED = 13  # mantissa bits that float32 has and float16 has not
LEVELS = 255


def format_of(maps: MapFormat, ema_dtype: str, device: torch.device) -> str:
    """A format with "auto" spelled out: what a preset stores, else float32 on a CPU and scaled16 elsewhere."""
    if maps != "auto":
        return maps
    return ema_dtype if ema_dtype != "float32" or device.type == "cpu" else "scaled16"


def size(kind: str, rows: int, columns: int) -> int:
    """Bytes of `rows` rows of a map."""
    return rows * columns * BYTES[kind] + (4 * rows if kind == "scaled8" else 0)


def dither(heads: int, rows: slice, columns: int, update: int, device: torch.device) -> torch.Tensor:
    """u 2^24 for [heads, rows, columns] as int32 in [0, 2^24): the sum of multiples of irrational numbers, modulo 1."""
    head, row = torch.arange(heads, device=device), torch.arange(rows.start, rows.stop, device=device)
    line = head[:, None] * HEAD + row * ROW + update * UPDATE
    column = torch.arange(columns, device=device) * COLUMN
    upper = [(x % WORD >> 32 - FINE).int() for x in (line, column)]
    return (upper[0][..., None] + upper[1]).bitwise_and_(2**FINE - 1)


def update_stored(held: torch.Tensor, live: torch.Tensor, beta: float) -> torch.Tensor:
    """E <- beta E + (1 - beta) A in place (half-precision: multiply, then add); samples [B] where the two differed."""
    differs = (held != live.to(held.dtype)).flatten(1).any(1)
    if held.dtype == torch.float32:
        held.lerp_(live, 1 - beta)
    else:
        held.mul_(beta).add_(live.to(held.dtype), alpha=1 - beta)
    return differs


@dataclass
class StoredMap:
    """E [B, H, rows, columns] in the dtype of `codes`; 0 before the first update, which is to have beta 0.

    updates: how many there were, counted by the caller before the rows of an update are taken in.
    """

    codes: torch.Tensor
    updates: int = 0

    @property
    def value(self) -> torch.Tensor:
        """All of E."""
        return self.codes

    def read(self, rows: slice) -> torch.Tensor:
        """Some rows of E, fp32."""
        return self.codes[:, :, rows].float()

    def take(self, rows: slice, live: torch.Tensor, beta: float) -> torch.Tensor:
        """E <- beta E + (1 - beta) A in some rows; samples [B] where A [B, H, rows, columns] was not E, rounding apart."""
        return update_stored(self.codes[:, :, rows], live, beta)

    def _dither(self, rows: slice) -> torch.Tensor:
        return dither(self.codes.shape[1], rows, self.codes.shape[3], self.updates, self.codes.device)


class Scaled16(StoredMap):
    """E times `unit` in float16: 11 bits of precision down to 2^-14 of a mean entry, where plain float16 has 1 or 2."""

    @property
    def unit(self) -> float:
        """The power of 2 that brings a mean entry to [1, 2), as far as 1 then still fits."""
        return 2.0 ** min(15, int(math.log2(self.codes.shape[3])))

    @property
    def value(self) -> torch.Tensor:
        """All of E, fp32."""
        return self.codes.float() / self.unit

    def read(self, rows: slice) -> torch.Tensor:
        return self.codes[:, :, rows].float().div_(self.unit)

    def take(self, rows: slice, live: torch.Tensor, beta: float) -> torch.Tensor:
        held = self.codes[:, :, rows]
        down = self._cut((live * self.unit).view(torch.int32)).half()
        # between two codes E may be either; bits of positive floats are ordered as they are
        differs = (held.view(torch.int16) - down.view(torch.int16)).abs_() > 1
        # u is added to the bits that fp16 has not, which are then cut off: up where u and the share of the gap reach 1
        new = self.read(rows).lerp_(live, 1 - beta).mul_(self.unit)
        held.copy_(self._cut(new.view(torch.int32).add_(self._dither(rows) >> FINE - DROPPED)))
        return differs.flatten(1).any(1)

    @staticmethod
    def _cut(bits: torch.Tensor) -> torch.Tensor:
        return bits.bitwise_and_(-1 << DROPPED).view(torch.float32)


@dataclass
class Scaled8(StoredMap):
    """E as peak (code / 255)^2 in 8 bits. peaks [B, H, rows, 1]: the average of the live rows' maxima, at least E's own."""

    def __post_init__(self) -> None:
        self.peaks = self.codes.new_zeros(*self.codes.shape[:3], 1, dtype=torch.float32)

    @property
    def value(self) -> torch.Tensor:
        """All of E, fp32."""
        return self.read(slice(None))

    def read(self, rows: slice) -> torch.Tensor:
        return self.codes[:, :, rows].float().square_().mul_(self.peaks[:, :, rows] / LEVELS**2)

    def take(self, rows: slice, live: torch.Tensor, beta: float) -> torch.Tensor:
        held, peak = self.codes[:, :, rows], self.peaks[:, :, rows]
        differs = (held - (live * _squares(peak)).sqrt_().floor_()).abs_() > 1
        new = self.read(rows).lerp_(live, 1 - beta)
        peak.lerp_(live.amax(-1, keepdim=True), 1 - beta)
        new *= _squares(peak)
        down = new.sqrt().floor_()
        # codes are square roots, so small entries have fine steps: from n^2 to (n + 1)^2 is 2 n + 1
        up = (new - down.square()) > (2 * down + 1) * (self._dither(rows) * 2.0**-FINE)
        held.copy_((down + up).clamp_(max=LEVELS))
        return differs.flatten(1).any(1)


def _squares(peak: torch.Tensor) -> torch.Tensor:
    return LEVELS**2 / peak.clamp(min=1e-30)


KINDS = {"scaled16": (Scaled16, torch.float16), "scaled8": (Scaled8, torch.uint8)}


def empty(kind: str, shape: tuple[int, ...], device: torch.device) -> StoredMap:
    """An average of that format and shape [B, H, rows, columns] before its first update."""
    cls, dtype = KINDS.get(kind) or (StoredMap, getattr(torch, kind))
    return cls(torch.zeros(shape, dtype=dtype, device=device))
