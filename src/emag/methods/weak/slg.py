"""Skipped blocks: a weak branch in which some blocks hand their streams on untouched."""

from collections.abc import Callable
from dataclasses import dataclass

from ...core import Perturbation, State, Tokens
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class Skipped(Perturbation):
    """The weak branch of SLG: the blocks in `layers` are not evaluated."""

    layers: tuple[int, ...]

    @property
    def changes(self) -> tuple[int, ...]:
        return self.layers

    @property
    def skipped(self) -> int:
        return len(self.layers)

    @property
    def resume(self) -> int:
        return min(self.layers)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return SkippedState()


class SkippedState(State):
    """No memory."""

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        return streams


@dataclass(frozen=True)
class SLG(Push):
    """Skip-layer guidance: push away from a network that skips whole blocks, image and text stream alike.

    A weak pass evaluates depth - (first skipped block) - (number of skipped ones) blocks. The residual of a
    ControlNet, which the network adds behind a block, is added behind a skipped one too, as in diffusers; the original
    code leaves it out.

    The published s is w - 1, and is added after CFG: name CFG before this rule for the same. The published window is
    `Interval(w, 0.01, 0.2, "progress")`, part of the default where a model has one; a number guides at every step.

    Args:
        layers: skipped blocks, by number; None takes the model's, or the middle one, as "auto" does. Those of one
            model do not suit another.

    >>> import emag
    >>> rules = [emag.CFG(4.5), emag.SLG(emag.Interval(3.8, 0.01, 0.2, "progress"), layers=(7, 8, 9))]
    >>> [rule.kind for rule in rules]
    ['combining', 'weak']
    """

    layers: tuple[int, ...] | None = None

    name = "slg"
    paper = "code of Stable Diffusion 3.5"

    @property
    def perturbation(self) -> Perturbation:
        assert self.layers is not None
        return Skipped(self.layers)
