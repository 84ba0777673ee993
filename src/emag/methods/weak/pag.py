"""Perturbed attention: a block's self-attention map replaced by the identity, wholly or in part."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention, differ
from ...maths.streams import Streams
from ..common.push import Push

PAGForm = Literal["image", "joint", "uniform"]


@dataclass(frozen=True)
class IdentityAttention(OnLayers):
    """The weak branch of `PAG` on `layers`, in one of two forms.

    Args:
        layers: blocks, by number.
        form: "image", "joint" or "uniform", see `PAG`.
        strength: share of the identity in the map, 0 to 1.
        heads: those of the queries, None for all.
    """

    form: PAGForm = "image"
    strength: float = 1.0
    heads: tuple[int, ...] | None = None

    @property
    def by_head(self) -> bool:
        # heads are named among all of them
        return self.heads is None

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "IdentityState":
        return IdentityState(self)


class IdentityState(State):
    """No memory: what it does depends on the live call alone."""

    proves = True

    def __init__(self, spec: IdentityAttention):
        super().__init__()
        self.spec = spec

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        out = TARGETS[self.spec.form](call, live)
        if self.spec.strength < 1:
            out = live.lerp(out, self.spec.strength)  # outputs are linear in the map: this blends the maps
        if self.spec.heads is not None:
            out = on_heads(out, live, self.spec.heads, call.frames)
        self.note(differ(out, live))
        return out


def joint(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """O = V for every token that has a query. Heads of k and v are repeated to those of q."""
    return call.values()[:, :, :call.q.shape[2]].to(call.q.dtype)


def image(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """Image query i sees key i and all text keys; text rows stay live. live and the result: [B, H, L, d]."""
    count, keys = call.image.stop - call.image.start, call.k.shape[2]
    # the identity among image tokens, as a mask: a softmax over the token itself and the text
    seen = torch.ones(count, keys, dtype=torch.bool, device=call.q.device)
    seen[:, call.image] = torch.eye(count, dtype=torch.bool, device=call.q.device)
    out = live.clone()
    out[:, :, call.image] = call.image_output(seen).to(live.dtype)
    return out


def uniform(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """Each image query sees all keys that a mask leaves it alike; text rows stay live."""
    out = live.clone()
    out[:, :, call.image] = call.image_output(None, torch.zeros_like(call.image_queries())).to(live.dtype)
    return out


TARGETS = {"image": image, "joint": joint, "uniform": uniform}


def on_heads(out: torch.Tensor, live: torch.Tensor, heads: tuple[int, ...], frames: int = 1) -> torch.Tensor:
    """`out` in the listed heads, `live` in all others; both [B, H, L, d]."""
    count = live.shape[1] // frames
    check_heads(heads, count)
    mixed, chosen = live.clone(), [frame * count + head for frame in range(frames) for head in heads]
    mixed[:, chosen] = out[:, chosen]
    return mixed


def check_heads(heads: tuple[int, ...], count: int) -> None:
    """Raise `BadValue` where an attention of `count` heads has not all of `heads`."""
    if max(heads) >= count:
        raise BadValue(f"pag heads {heads} do not exist: the attention has heads 0 to {count - 1}")


@dataclass(frozen=True)
class PAG(Push):
    """Perturbed-attention guidance: push away from a network whose self-attention maps are the identity.

    The weak branch lets each token see itself alone in some blocks, so it keeps textures and loses structure.

    Args:
        layers: blocks to perturb, by number; None is the model's default, "auto" the middle block.
        form: "image": each image query sees its own key and all text keys, text rows stay as they are. "joint": O = V for
            all tokens, text included, which is the attention form of STG. Without text in the attention the two are one.
            "uniform": each image query sees all keys alike, the other end of the same paper's soft maps.
        strength: share of the identity in the map, 0 (off) to 1 (PAG). Between: see `SoftPAG`.
        heads: only these heads of every listed block; None is all. `SoftPAG` has other ones in each.

    >>> import emag
    >>> emag.PAG(1.7, layers=(13,)).equation
    'p + (w - 1) (cond - weak)'
    """

    layers: tuple[int, ...] | None = None
    form: PAGForm = "image"
    strength: float = 1.0
    heads: tuple[int, ...] | None = None

    name = "pag"
    paper = "arXiv 2403.17377"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise BadValue(f"pag strength must lie in [0, 1] (1 is the whole identity), got {self.strength}")
        if self.heads is not None:
            object.__setattr__(self, "heads", _heads(self.heads))

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        for at in self.perturbation.blocks if self.heads is not None else ():
            count = getattr(network.blocks[at].attention, "heads", None)
            if isinstance(count, int):
                check_heads(self.heads or (), count)

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.strength == 0

    @property
    def perturbation(self) -> IdentityAttention:
        assert self.layers is not None
        return IdentityAttention(self.layers, self.form, self.strength, self.heads)


def _heads(heads: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(heads, (int, str)) or not heads or not all(type(head) is int and head >= 0 for head in heads):
        raise BadValue(f"pag heads is a list of head numbers, e.g. (0, 5), or None for all, got {heads!r}")
    return tuple(dict.fromkeys(heads))
