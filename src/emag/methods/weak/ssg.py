"""Self-swap: a weak branch whose attention gives some tokens, and some channels, what was meant for others."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention, differ
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class Swapped(OnLayers):
    """The weak branch of SSG on `layers`: shares of the tokens and channels of the attention's output change places."""

    tokens: float
    channels: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "SwappedState":
        return SwappedState(self, streams)


class SwappedState(State):
    """Partners drawn for each sample, block and step, from the sample's own stream."""

    proves = True

    def __init__(self, spec: Swapped, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams

    def look(self, block: int, call: Attention) -> None:
        if self.spec.tokens and call.image.stop - call.image.start < 2:
            raise Unsupported("ssg swaps image tokens, and this network has one: use another weak branch, or channels alone")

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        out = live.clone()
        # heads side by side: a token is [heads x d] numbers
        image = live[:, :, call.image].transpose(1, 2)
        told = image.flatten(2)
        for share, name in ((self.spec.tokens, "tokens"), (self.spec.channels, "channels")):
            told = self._swapped(told, share, f"ssg/{block}/{name}", name == "channels")
        out[:, :, call.image] = told.unflatten(2, image.shape[2:]).transpose(1, 2)
        self.note(differ(out, live))
        return out

    def _swapped(self, told: torch.Tensor, share: float, name: str, across: bool) -> torch.Tensor:
        """told [batch, tokens, channels], tokens swapped, or channels where `across`."""
        if not share:
            return told
        things = told.mT if across else told
        things = swapped(things, share, self.streams.normal(name, things[..., 0].float()).argsort(1))
        return things.mT if across else things


def swapped(things: torch.Tensor, share: float, order: torch.Tensor) -> torch.Tensor:
    """things [batch, n, d] in which `share` of the n change places with a partner, at least one pair; the others stay.

    order [batch, n]: a permutation that draws partners, its first half with its second. Of these pairs the least similar
    ones (cosine) swap.
    """
    half = things.shape[1] // 2
    if not half:
        return things
    left, right = order[:, :half], order[:, half:2 * half]
    alike = F.cosine_similarity(_at(things, left).float(), _at(things, right).float(), dim=2)
    count = min(half, max(1, round(share * things.shape[1] / 2)))
    least = alike.topk(count, dim=1, largest=False).indices
    left, right = left.gather(1, least), right.gather(1, least)
    places = torch.arange(things.shape[1], device=things.device).expand(len(things), -1)
    return _at(things, places.scatter(1, left, right).scatter(1, right, left))


def _at(things: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Things [batch, n, d] at places [batch, m]."""
    return things.gather(1, places[..., None].expand(-1, -1, things.shape[2]))


@dataclass(frozen=True)
class SSG(Push):
    """Self-swap guidance: push away from a network in which unlike tokens, and unlike channels, change places.

    In the output of self-attention, a share of the image tokens take each other's place, and a share of the channels;
    the residual stream stays, so that the network is confused about details rather than lost. What is swapped, and with
    whom, is unconfirmed: here partners are drawn for each sample from its own stream, anew at each step and block, and
    of these pairs the least similar ones (cosine) swap. Text tokens stay.

    Args:
        layers: blocks, by number; None is the model's default, or the middle one (untested), as "auto" does. Another
            paper's runs of it name all of them, at tokens=0.001.
        tokens: share of the image tokens that swap, in [0, 1], at least one pair; 0 is none. 0.1 is a third party's.
        channels: the same for the channels of the attention's output; 0.1 is an untested default.

    >>> import emag
    >>> emag.SSG(2.0, layers=(13,), tokens=0, channels=0).neutral
    True
    """

    layers: tuple[int, ...] | None = None
    tokens: float = 0.1
    channels: float = 0.1

    name = "ssg"
    paper = "arXiv 2604.08048"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.tokens <= 1 and 0 <= self.channels <= 1):
            raise BadValue(f"ssg tokens and channels are shares in [0, 1] (0 is none), got {self.tokens}, {self.channels}")

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or (self.tokens == 0 and self.channels == 0)

    @property
    def perturbation(self) -> Swapped:
        assert self.layers is not None
        return Swapped(self.layers, self.tokens, self.channels)
