"""Softly perturbed heads: single attention heads drawn towards another map; and which heads, by search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention, differ
from ...maths.streams import Streams
from ..common.push import Push
from .pag import on_heads, uniform

SoftTarget = Literal["identity", "uniform", "mean-query", "argmax"]


@dataclass(frozen=True)
class SoftHeads(OnLayers):
    """The weak branch of SoftPAG. heads: those of each of `layers`, in their order."""

    heads: tuple[tuple[int, ...], ...]
    target: SoftTarget
    strength: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return SoftHeadsState(self)


class SoftHeadsState(State):
    """No memory."""

    proves = True

    def __init__(self, spec: SoftHeads):
        super().__init__()
        self.spec = spec

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        # outputs are linear in the map: (1 - u) A V + u T V blends the maps
        blended = live.lerp(TARGET_MAPS[self.spec.target](call, live), self.spec.strength)
        out = on_heads(blended, live, self.spec.heads[self.spec.layers.index(block)], call.frames)
        self.note(differ(out, live))
        return out


def identity_map(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """Each image query sees its own value alone; text rows stay live. live and the result: [B, H, L, d]."""
    return _with_image(call, live, call.values()[:, :, call.image])


def mean_query(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """Each image query is the mean one."""
    queries = call.image_queries()
    return _with_image(call, live, call.image_output(None, queries.mean(2, keepdim=True).expand_as(queries).contiguous()))


def argmax_map(call: Attention, live: torch.Tensor) -> torch.Tensor:
    """Each image query sees the value of its strongest key alone."""
    at = torch.cat([call.weights(chunk).argmax(-1) for chunk in call.chunks()], dim=2)
    return _with_image(call, live, call.values().gather(2, at[..., None].expand(*at.shape, live.shape[-1])))


def _with_image(call: Attention, live: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    out = live.clone()
    out[:, :, call.image] = new.to(live.dtype)
    return out


TARGET_MAPS = {"identity": identity_map, "uniform": uniform, "mean-query": mean_query, "argmax": argmax_map}


@dataclass(frozen=True)
class SoftPAG(Push):
    """SoftPAG: push away from a network in which single attention heads are drawn towards another map.

    In the chosen heads the map A of the image queries becomes (1 - u) A + u T. T is the identity, the uniform map, the
    map of the mean query (SEG's, safe in joint attention) or the one-hot map of the strongest keys. HeadHunter is the
    search for heads, `select_heads`; which are good is a fact of one model, so there is no default. In joint attention
    a row of the identity holds no text (whether the authors keep it is unconfirmed; `PAG` with form "image" does), and
    the rows of the text stay.

    Args:
        heads: "block.head" names, e.g. ("7.3", "12.0").
        target: T: "identity" (SoftPAG), "uniform" (SoftUG), "mean-query" (SoftSEG) or "argmax" (SoftMG).
        strength: u in [0, 1]; 0 is off, 0.25 the authors' for images, 1 the whole of T.

    >>> import emag
    >>> emag.SoftPAG(4.0, ("7.3", "7.5", "2.0")).perturbation.layers
    (2, 7)
    """

    heads: tuple[str, ...] | None = None
    target: SoftTarget = "identity"
    strength: float = 0.25

    name = "soft-pag"
    paper = "arXiv 2506.10978"
    required = {"heads": "soft-pag=4,heads=7.3+12.0"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise BadValue(f"soft-pag strength must lie in [0, 1] (0 is off), got {self.strength}")
        if self.heads is not None:
            object.__setattr__(self, "heads", tuple(f"{at}.{head}" for at, head in _read(self.heads)))

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        network.check_layers(self.perturbation.layers)
        for at, head in _read(self.heads or ()):
            count = getattr(network.blocks[at].attention, "heads", None)
            if isinstance(count, int) and head >= count:
                raise BadValue(f"soft-pag head {at}.{head} does not exist: block {at} has heads 0 to {count - 1}")

    @property
    def neutral(self) -> bool:
        return super().neutral or self.strength == 0

    @property
    def perturbation(self) -> SoftHeads:
        pairs = _read(self.heads or ())
        layers = tuple(sorted({at for at, _ in pairs}))
        return SoftHeads(layers, tuple(tuple(head for b, head in pairs if b == at) for at in layers), self.target,
                         self.strength)


def select_heads(objective: Callable[[tuple[str, ...]], float], heads: Sequence[str], count: int = 24,
                 rounds: int = 1) -> tuple[str, ...]:
    """HeadHunter (arXiv 2506.10978): the heads under which `objective` is greatest, found greedily.

    Each round tries every head that is left beside those chosen so far, and adds the best `count`. objective: a number
    for "block.head" names, the greater the better; the mean of a reward over prompts and seeds (the authors: PickScore,
    20 pairs). heads: names to choose from. The authors take 1 round of 24 for quality, 5 rounds of 3 for a style.
    Costs one `objective` for each head and round. Raises `BadValue` where there are too few heads.

    >>> import emag
    >>> emag.select_heads(lambda names: len({"1.0", "2.1"} & set(names)), ["0.0", "1.0", "2.1"], count=1, rounds=2)
    ('1.0', '2.1')
    """
    if count < 1 or rounds < 1 or count * rounds > len(heads):
        raise BadValue(f"select_heads chooses {rounds} x {count} heads, at least one, out of {len(heads)}")
    chosen: tuple[str, ...] = ()
    for _ in range(rounds):
        left = [head for head in heads if head not in chosen]
        found = {head: objective((*chosen, head)) for head in left}
        chosen += tuple(sorted(left, key=lambda head: -found[head])[:count])
    return chosen


def _read(heads: Any) -> list[tuple[int, int]]:
    """(block, head) of each name, each once, in order. Raises `BadValue` for what is none."""
    try:
        if isinstance(heads, str):
            raise ValueError(heads)
        found = [(int(at), int(head)) for at, head in (name.split(".") for name in heads)]
        if not all(min(pair) >= 0 for pair in found):
            raise ValueError(heads)
    except (AttributeError, TypeError, ValueError):
        raise BadValue(f"soft-pag heads are names of a block and a head, e.g. ('7.3', '12.0'), got {heads!r}") from None
    return sorted(set(found))
