"""Shuffled tokens: a weak branch in which some blocks get their image tokens in a random order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, State, Tokens
from ...errors import Unsupported
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class Shuffled(Perturbation):
    """The weak branch of TPG: image tokens permuted at the input of the blocks in `layers`."""

    layers: tuple[int, ...]
    restore: bool

    @property
    def changes(self) -> tuple[int, ...]:
        return self.layers

    @property
    def resume(self) -> int:
        return min(self.layers)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return ShuffledState(self, streams)


class ShuffledState(State):
    """A permutation per sample, block and step, from the sample's own stream."""

    def __init__(self, spec: Shuffled, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        image = streams["hidden_states"]
        order = self.order(block, image)
        out = run({**streams, "hidden_states": reordered(image, order)})
        return {**out, "hidden_states": reordered(out["hidden_states"], order.argsort(1))} if self.spec.restore else out

    def order(self, block: int, image: torch.Tensor) -> torch.Tensor:
        """Which token comes to each place, for image tokens [batch, tokens, channels]; [batch, tokens]."""
        # the order that sorts random numbers is a random permutation; its own argsort, in `change`, is its inverse
        return self.streams.normal(f"tpg/{block}", image[..., 0].float()).argsort(1)


def reordered(tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Tokens [batch, tokens, channels] in the given order [batch, tokens]."""
    return tokens.gather(1, order[..., None].expand_as(tokens))


@dataclass(frozen=True)
class TPG(Push):
    """Token perturbation guidance: push away from a network whose image tokens are shuffled in some blocks.

    The shuffle keeps the norms of tokens. Text tokens stay; on SD3 and Flux their order does not act inside blocks
    anyhow. The order is not undone, so the residual stream is shuffled too, and the shuffles of several blocks add up.
    Unlike in the authors' code every sample has its own order, from its own random stream.

    It is refused where positions are added before the first block alone (SD3, DiT, PixArt, AuraFlow), with
    `Unsupported`. Blocks of such networks do not see where tokens are. A block then commutes with the shuffle,
    `block(P h) = P block(h)`: the weak prediction would be the clean one with its patches in another order, whichever
    blocks are named, and the push noise. With rotary positions (Flux) or convolutions (Sana) tokens take each other's
    places from that block on; that is outside of what the paper tested (U-Nets).

    Args:
        layers: shuffled blocks, by number; None takes the model's, or the middle one (untested), as "auto" does.
        restore: undo the order behind each block.

    >>> import emag
    >>> rule = emag.TPG(4, layers=(13,))
    >>> rule.kind, rule.perturbation.changes  # blocks that get their tokens in another order
    ('weak', (13,))
    """

    layers: tuple[int, ...] | None = None
    restore: bool = False

    name = "tpg"
    paper = "arXiv 2506.10036"

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if not network.placed:
            raise Unsupported(f"{self.name} moves tokens about, and the blocks of this network do not see where tokens are: "
                              "the weak prediction would be the clean one, patches in another order. Use another weak "
                              "branch, e.g. emag")

    @property
    def perturbation(self) -> Shuffled:
        assert self.layers is not None
        return Shuffled(self.layers, self.restore)
