"""Which candidate block a recipe picked at which evaluation."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..folder import RunFolder


@dataclass(frozen=True)
class Picks:
    """share [blocks, evaluations]: of the images; columns are zero at evaluations where nothing was picked."""

    recipe: str
    blocks: list[int]
    share: np.ndarray
    images: int

    @property
    def text(self) -> str:
        """The shares over all picks, in words."""
        total = self.share.sum(1) / self.share.sum()
        shares = ", ".join(f"block {block} {part:.0%}" for block, part in zip(self.blocks, total))
        return f"{self.recipe}, {self.images} images: {shares} of all picks"


def picks(run: RunFolder) -> list[Picks]:
    """The picks of every recipe that makes any."""
    found = (_of(name, run.index(name)["picks"].to_pylist()) for name in run.recipes())
    return [one for one in found if one is not None]


def _of(recipe: str, rows: list[list[int | None] | None]) -> Picks | None:
    known = [row for row in rows if row is not None]
    counts = Counter((block, at) for row in known for at, block in enumerate(row) if block is not None)
    if not counts:
        return None
    blocks = sorted({block for block, _ in counts})
    share = np.zeros((len(blocks), max(map(len, known))))
    for (block, at), count in counts.items():
        share[blocks.index(block), at] = count / len(known)
    return Picks(recipe, blocks, share, len(known))
