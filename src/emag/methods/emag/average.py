"""The running average of one block: what EMAG keeps of it, and the statistic against it."""

from dataclasses import dataclass

import torch

from ...core import Sdpa
from ...maths.attention import Attention
from ...maths.streams import Streams
from .compat import StatAgainst


@dataclass
class Average:
    """The running average E of one block, and the statistic that is taken against it: what both kinds share.

    Args:
        beta: decay of E per update, in [0, 1].
        strength: share of E in what the weak pass uses, in [0, 1].
        statistic: how far the live attention is from E, see `EMAG`; "auto" is spelled out by now.
        against: "old" or "updated": the average the statistic is taken against.
        dtype: of what is stored.
        jitter: size of seeded noise on E, 0 for none.
        name: of the random streams.
        streams: the random streams of the samples.
        moved: samples [B] whose live attention ever differed from E; elsewhere only rounding sets the two apart. None
            before the second update.
    """

    beta: float
    strength: float
    statistic: str
    against: StatAgainst  # "old" or "updated": the average the statistic is taken against
    dtype: torch.dtype
    jitter: float
    name: str  # of the random streams
    streams: Streams
    moved: torch.Tensor | None = None

    def fits(self, call: Attention) -> bool:
        """Whether a live call is as large as those before it; a block may come to work on another grid within a run."""
        raise NotImplementedError

    def observe(self, call: Attention) -> torch.Tensor:
        """Take in the live call, which `fits`; statistic per sample [B], 0 at the first call."""
        raise NotImplementedError

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention output with the average in the `chosen` rows [B] bool, and whether anything differed."""
        raise NotImplementedError

    def _note(self, differs: torch.Tensor) -> None:
        self.moved = differs if self.moved is None else self.moved | differs

    def _effective(self, new: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """Whether putting `new` for `live` [B, ...] was more than rounding."""
        differs = (new != live).flatten(1).any(1)
        return differs.any() if self._changes or self.moved is None else (differs & self.moved).any()

    @property
    def _changes(self) -> bool:
        """True where the attention is another even if the average is the live one."""
        return self.jitter > 0

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return self.jitter * self.streams.normal(self.name, like)
