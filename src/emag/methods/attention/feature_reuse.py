"""FasterCache's feature reuse: attention outputs of some steps guessed from those of the two steps before."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, Rows, Rule, Side, State
from ...errors import BadValue, Unsupported
from ...maths.streams import Streams
from ...schedules import Scale, at_time, check_scale, check_timed
from ..common.push import layers_of
from ..common.sides import sides

AttentionOutputs = tuple[torch.Tensor | None, ...]
"""What an attention module returns, rows first: of the image, and of the text where it is in the same attention."""


@dataclass(frozen=True)
class Reused(Perturbation):
    """Attention of `layers` that some steps do not evaluate."""

    layers: tuple[int, ...]
    factor: Scale
    every: int
    after: float

    @property
    def around(self) -> tuple[int, ...]:
        return self.layers

    @property
    def strong(self) -> bool:
        return True

    @property
    def lone(self) -> bool:
        return True

    def reuses(self, index: int, count: int) -> bool:
        """True where step `index` of `count` reuses: from the first on that may, all but each `every`-th and the last."""
        first = max(2, math.ceil(self.after * count))  # two steps have to be kept by then
        return first <= index < count - 1 and (index - first) % self.every != self.every - 1

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where no step reuses anything."""
        if not any(self.reuses(index, len(sigmas)) for index in range(len(sigmas))):
            raise BadValue(f"feature-reuse finds no step to spare among {len(sigmas)}: the first ones "
                           f"(start={self.after:g}) and the last are whole. Use more steps, or an earlier start")

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "ReusedState":
        return ReusedState(self, len(sigmas))


class ReusedState(State):
    """Of each block and side the last two outputs that were evaluated, each with the evaluation it is from.

    computed, reused: how often attention modules were evaluated in this run, and how often not.
    """

    proves = True

    def __init__(self, spec: Reused, count: int):
        super().__init__()
        self.spec, self.count = spec, count
        self.kept: dict[tuple[int, Side], list[tuple[int, AttentionOutputs]]] = {}
        self.served: set[tuple[int, Side]] = set()
        self.number = self.whole = self.computed = self.reused = 0
        self.reuses = False

    def begin(self, index: int) -> None:
        super().begin(index)
        self.number += 1
        self.served.clear()
        self.reuses = self.spec.reuses(index, self.count)
        if not self.reuses:
            self.whole = self.number

    def around(self, block: int, tokens: torch.Tensor, run: Callable[[torch.Tensor], Any], rows: Rows) -> Any:
        mine = [(block, side) for side, _ in sides(rows)]
        if self.served.intersection(mine):
            raise Unsupported("feature-reuse keeps one attention output a step, and the network is evaluated more than once "
                              "in this one: leave out what evaluates it again, or this rule")
        self.served.update(mine)
        if self.reuses and all(map(self._is_fresh, mine)):
            return self._guessed(mine)
        out = run(tokens)
        self.computed += 1
        self._keep(block, out if isinstance(out, tuple) else (out,), rows)
        return out

    def _is_fresh(self, key: tuple[int, Side]) -> bool:
        """True where the last whole step, and one before it, evaluated this side: rows that a step spared are stale."""
        kept = self.kept.get(key, [])
        return len(kept) == 2 and kept[-1][0] >= self.whole

    def _guessed(self, keys: Sequence[tuple[int, Side]]) -> Any:
        self.reused += 1
        assert self.now is not None
        factor = at_time(self.spec.factor, self.now)
        pairs = [[outputs for _, outputs in self.kept[key]] for key in keys]
        made = [extrapolated(older, newer, factor) for older, newer in pairs]
        self.note(torch.tensor(True))
        rows = [[part for part in parts if part is not None] for parts in zip(*made, strict=True)]
        whole = tuple(torch.cat(part) if part else None for part in rows)
        return whole if len(whole) > 1 else whole[0]

    def _keep(self, block: int, out: AttentionOutputs, rows: Rows) -> None:
        if any(part is not None and len(part) != rows.total for part in out):
            raise Unsupported(f"the attention of block {block} does not return a row for each row of the network's call: "
                              "name other layers")
        for side, part in sides(rows):
            kept = self.kept.setdefault((block, side), [])
            kept.append((self.number, tuple(None if one is None else one[part] for one in out)))
            del kept[:-2]


def extrapolated(older: AttentionOutputs, newer: AttentionOutputs, factor: float) -> AttentionOutputs:
    """newer + factor (newer - older), each part by itself, in the network's own dtype."""
    return tuple(None if new is None or old is None else new + factor * (new - old)
                 for old, new in zip(older, newer, strict=True))


@dataclass(frozen=True)
class FeatureReuse(Rule):
    """FasterCache's dynamic feature reuse: some steps guess attention outputs from the two evaluated last.

    At a step that reuses, the self-attention of the listed blocks is not evaluated. Its output is P1 + k (P1 - P2), P1
    and P2 those of the last two steps that evaluated it. The first steps, every `every`-th one after them and the last
    are whole. Blocks are evaluated as before, without their attention; the count of blocks stays. Two outputs of each
    listed block are kept in memory.

    Conditional and unconditional rows keep outputs of their own. Rows that the last whole step spared (`CFGCache`, the
    other half of FasterCache) are evaluated, not guessed; the published code gives them the other condition's. It is
    refused beside weak branches, whose attention would be the clean pass's, and beside methods inside the same attention.

    Args:
        factor: k, at least 0, or a schedule of time; 0 is the last output as it is. The paper's weight grows over the
            steps; the authors' code has 0.5 (Latte) and 0.3 (CogVideoX).
        every: from the first step on that reuses, each `every`-th is whole, at least 2; 1 is off. The authors': 2 on
            Latte, 3 on CogVideoX.
        start: share of the steps that come first, all whole, in [0, 1]; 16 and 19 of 50 in the authors' code.
        layers: blocks, by number; None and "auto" take all.

    >>> import emag
    >>> rule = emag.FeatureReuse(0.5, every=2, start=0.32, layers=(0,))
    >>> [i for i in range(50) if rule.perturbation.reuses(i, 50)][:3]
    [16, 18, 20]
    """

    factor: Scale = 0.5
    every: int = 2
    start: float = 0.32
    layers: tuple[int, ...] | None = None

    name = "feature-reuse"
    paper = "arXiv 2410.19355"
    equation = "attention <- P1 + k (P1 - P2), of the last two steps that evaluated it"
    kind = "attention"
    cost = "saves: the attention of its blocks in most of the later steps; no further evaluation"

    def __post_init__(self) -> None:
        check_scale(self.name, self.factor, field="factor")
        check_timed(self.name, self.factor, "works inside the network")
        if self.layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, self.layers))
        if self.every < 1 or not 0 <= self.start <= 1:
            raise BadValue(f"feature-reuse needs every >= 1 (1 is off) and start in [0, 1], got {self.every}, "
                           f"{self.start}")

    @property
    def neutral(self) -> bool:
        return self.every == 1

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(depth))

    @property
    def perturbation(self) -> Reused:
        assert self.layers is not None
        return Reused(self.layers, self.factor, self.every, self.start)

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation,)
