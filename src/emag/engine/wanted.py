"""What is wanted of a network's blocks: by a guidance in all its passes, and by one of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core import Tokens
from .attending import Around
from .framed import Frames
from .packed import Packing
from .taps import Tap

CLEAN, WHOLE = 0, -1
Changer = Callable[[Tokens, Callable[[Tokens], Tokens]], Tokens]


@dataclass(frozen=True)
class Wanted:
    """Blocks that a guidance touches: where weak passes resume, what is changed as a whole, whose attention is tapped, and
    which attention modules have something around them as a whole. served: of those, where answers are kept and served."""

    resume: frozenset[int] = frozenset()
    changed: frozenset[int] = frozenset()
    tapped: frozenset[Tap] = frozenset()
    around: frozenset[Tap] = frozenset()
    served: frozenset[int] = frozenset()

    @classmethod
    def of(cls, branches: Iterable[Any]) -> "Wanted":
        """What the branches of a guidance touch."""
        found = list(branches)
        # what is only watched, or works in every pass, resumes nowhere; what has inputs of its own runs whole
        evaluated = [b for b in found if not (b.observes or b.strong or b.whole)]
        return cls(frozenset(b.resume for b in evaluated), frozenset(i for b in found for i in b.changes),
                   frozenset((i, b.cross) for b in found for i in b.blocks),
                   frozenset((i, cross) for b in found for i in b.around for cross in (False, *[True] * b.around_cross)),
                   frozenset(i for b in found for i in b.around if b.lone))

    @property
    def last(self) -> int:
        """The last block that a weak pass may skip up to."""
        return max(self.resume, default=-1)


@dataclass(frozen=True)
class Pass:
    """One pass through the network. mode: CLEAN, WHOLE where a weak pass has inputs of its own, or k + 1 where it resumes at
    block k. rows: those of the recorded streams it uses, None for all, and how often they repeat. taps, changers: what to do
    with tapped attention and changed blocks; looks: with attention that is only looked at, where it makes fused calls;
    around: what to do around attention modules.
    image: image tokens of the call, where a stream has text tokens as well. references: tokens of reference images behind
    them. packing: where they sit, if that differs from row to row. frames: rows of a sample, where they are several."""

    mode: int = CLEAN
    rows: slice | None = None
    repeat: int = 1
    taps: dict[Tap, Any] = field(default_factory=dict)
    looks: dict[Tap, Any] = field(default_factory=dict)
    changers: dict[int, Changer] = field(default_factory=dict)
    around: dict[Tap, Around] = field(default_factory=dict)
    image: int = 0
    references: int = 0
    packing: Packing | None = None
    frames: Frames | None = None
