"""Randomly skipped blocks: a weak branch in which a few blocks, drawn anew at every step, hand their streams on."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, State, Tokens
from ...errors import BadValue
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class Stochastic(Perturbation):
    """The weak branch of S2-Guidance: `count` of the blocks in `layers` are skipped, others at every step."""

    layers: tuple[int, ...]
    count: int
    per_sample: bool
    seed: int

    @property
    def changes(self) -> tuple[int, ...]:
        return self.layers

    @property
    def skipped(self) -> int:
        return 0 if self.per_sample else self.count

    @property
    def resume(self) -> int:
        return min(self.layers)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return PerSample(self, streams) if self.per_sample else PerStep(self)

    def drawn(self, index: int) -> frozenset[int]:
        """Blocks skipped at step `index` by all samples: the same in every run."""
        # one draw for the batch: a block is skipped, and saved, for all rows or for none
        seed = hashlib.sha256(f"s2/{self.seed}/{index}".encode()).digest()
        return frozenset(random.Random(seed).sample(sorted(self.layers), self.count))


class PerStep(State):
    """One draw per step for all samples; it does not depend on who they are."""

    def __init__(self, spec: Stochastic):
        super().__init__()
        self.spec = spec
        self.dropped: frozenset[int] = frozenset()

    def begin(self, index: int) -> None:
        super().begin(index)
        self.dropped = self.spec.drawn(index)

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        return streams if block in self.dropped else run(streams)


class PerSample(State):
    """A draw per step and sample, from the sample's own stream: all blocks are evaluated, and rows of each selected."""

    def __init__(self, spec: Stochastic, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        image = streams["hidden_states"]
        dropped = self.dropped(image)[:, self.spec.layers.index(block)].view(-1, *[1] * (image.ndim - 1))
        return {name: _chosen(dropped, streams[name], new) for name, new in run(streams).items()}

    def dropped(self, like: torch.Tensor) -> torch.Tensor:
        """Which of the blocks each row of `like` [batch, ...] skips at this step, [batch, blocks] bool."""
        empty = torch.empty(len(like), len(self.spec.layers), device=like.device)
        # argsort twice is the rank: the blocks with the `count` lowest of the random numbers are drawn
        rank = self.streams.normal(f"s2/{self.spec.seed}", empty).argsort(1).argsort(1)
        return rank < self.spec.count


def _chosen(where: torch.Tensor, old: Any, new: Any) -> Any:
    """A block that returns nothing for a stream goes on doing so."""
    return torch.where(where, old, new) if isinstance(new, torch.Tensor) else new


@dataclass(frozen=True)
class S2(Push):
    """S2-Guidance: push away from a network that skips about a tenth of its blocks, drawn anew at every step.

    The number of skipped blocks is constant. A weak pass resumes at the first block that may be skipped, also at steps
    at which the draw begins later: so its cost is known before the run. For the mean over several draws, name several
    rules with other seeds. The weight is the paper's omega + 1; its first version may lack the term + omega p_c
    (unconfirmed).

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None is an untested 1.25 over the middle 80 % of the run (the
            window as reported, omega unconfirmed).
        drop: share of the candidates that is skipped, in [0, 1], at least one block; 0 is off.
        layers: the candidates, by number; None or "auto" is all blocks but those in `exclude`.
        exclude: blocks that are never skipped where `layers` is not given. Which blocks the paper spares is
            unconfirmed.
        per_sample: each sample has its own draw, at the price of evaluating all blocks; else all share one, from
            `seed` and the step alone.
        seed: of the draws, a whole number.

    >>> import emag
    >>> two = [emag.S2(1.25, seed=0), emag.S2(1.25, seed=1)]  # their pushes add up: 0.5 times the mean direction
    >>> emag.S2(1.25, layers=(4, 5, 6, 7), drop=0.5).perturbation.count  # blocks skipped in each step
    2
    """

    drop: float = 0.1
    layers: tuple[int, ...] | None = None
    exclude: tuple[int, ...] = (0,)
    per_sample: bool = False
    seed: int = 0

    name = "s2"
    paper = "arXiv 2508.12880"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop <= 1:
            raise BadValue(f"s2 drop is a share of the blocks in [0, 1], got {self.drop}")
        if isinstance(self.exclude, (int, str)) or not all(type(at) is int for at in self.exclude):
            raise BadValue(f"s2 exclude is a list of block numbers, e.g. (0, 1), got {self.exclude!r}")
        object.__setattr__(self, "exclude", tuple(self.exclude))

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.drop == 0

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        found = tuple(at for at in range(depth) if at not in self.exclude)
        return found or super().automatic_layers(depth)

    @property
    def perturbation(self) -> Stochastic:
        assert self.layers is not None
        count = max(1, round(self.drop * len(self.layers)))
        return Stochastic(self.layers, count, self.per_sample, self.seed)
