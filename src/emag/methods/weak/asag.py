"""Adversarial attention: the transport plan between image queries and keys that makes them least alike."""

import math
from dataclasses import dataclass

import torch

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention, differ
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class SinkhornAttention(OnLayers):
    """The weak branch of ASAG on `layers`: `iterations` Sinkhorn steps towards the plan of largest cost."""

    iterations: int

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "SinkhornState":
        return SinkhornState(self.iterations)


class SinkhornState(State):
    """No memory: what it does depends on the live call alone."""

    proves = True

    def __init__(self, iterations: int):
        super().__init__()
        self.iterations = iterations

    def look(self, block: int, call: Attention) -> None:
        check_unmasked(call)

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        out = live.clone()
        out[:, :, call.image] = transported(call, self.iterations).to(live.dtype)
        self.note(differ(out, live))
        return out


def check_unmasked(call: Attention) -> None:
    """Raise `Unsupported` for an attention with a mask."""
    if call.mask is not None:
        raise Unsupported("asag lets every image token see every other, and this attention has a mask: choose another "
                          "method, e.g. pag or seg")


def transported(call: Attention, iterations: int) -> torch.Tensor:
    """Output of the image queries under the plan, [B, H, image tokens, d], fp32.

    Each query keeps the share of attention it gives to text, and spends the rest on image keys by n P. In query chunks:
    the logits are computed once per iteration and once more, and never held as a whole.
    """
    check_unmasked(call)
    f, g = potentials(call, iterations)
    v, count = call.values(), f.shape[-1]
    image, parts = v[:, :, call.image], []
    for chunk in call.chunks():
        # rows of P sum to 1/n: n P has rows that sum to 1, as those of a softmax do
        plan = count * torch.exp(f[..., chunk, None] + g[..., None, :] - logits(call, chunk))
        part = plan @ image
        if call.has_text:
            weights = call.weights(chunk)
            inside = weights[..., call.image]
            # the share that goes to the image is spent by the plan; the rest, weights @ v - inside @ image, is the text's
            part = inside.sum(-1, keepdim=True) * part + weights @ v - inside @ image
        parts.append(part)
    return torch.cat(parts, dim=2)


def potentials(call: Attention, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """f and g [B, H, image tokens] of the plan P = exp(f + g - S) after some iterations, rows first; marginals 1/n.

    In logarithms, a sum over rows taken chunk by chunk.
    """
    count = call.image.stop - call.image.start
    g = call.q.new_zeros(*call.q.shape[:2], count, dtype=torch.float32)
    level, f = -math.log(count), g
    for _ in range(iterations):
        total, rows = torch.full_like(g, -math.inf), []
        for chunk in call.chunks():
            cost = -logits(call, chunk)
            # Sinkhorn in logarithms: f makes the rows of exp(f + g - S) sum to 1/n, then g its columns, whose sums `total`
            # gathers over the chunks of rows
            rows.append(level - torch.logsumexp(cost + g[..., None, :], dim=-1))
            total = torch.logaddexp(total, torch.logsumexp(cost + rows[-1][..., None], dim=-2))
        f, g = torch.cat(rows, dim=-1), level - total
    return f, g


def logits(call: Attention, chunk: slice) -> torch.Tensor:
    """S of the image queries in `chunk` over the image keys, [B, H, chunk, image tokens], fp32."""
    k = call.k[:, :, call.image].repeat_interleave(call.q.shape[1] // call.k.shape[1], dim=1)
    scale = call.q.shape[-1] ** -0.5 if call.scale is None else call.scale
    return (call.image_queries()[:, :, chunk].float() * scale) @ k.float().transpose(-1, -2)


@dataclass(frozen=True)
class ASAG(Push):
    """Adversarial Sinkhorn attention guidance: push away from image queries that attend to the keys least like them.

    The weak branch's attention among image tokens is n P. P is the entropic transport plan between queries and keys,
    with the sign of their similarity turned, after some Sinkhorn iterations (rows, then columns; columns are exact).

    On joint attention each query keeps the share that it gives to text, and text rows stay. That is our extension: the
    paper's form on such models is unconfirmed. Attention with a mask is refused (`Unsupported`). Not fused: it costs
    `iterations` + 1 times the price of an attention map, in chunks of 8 MB. The default scale w = 2.5 is a port's
    (s = 1.5); the paper's is unconfirmed.

    Args:
        layers: blocks to perturb, by number; None is the model's default, "auto" the middle block.
        iterations: Sinkhorn iterations, at least 1. Its default is a port's; the paper's is unconfirmed.

    >>> import emag
    >>> emag.ASAG(2.5, iterations=3).kind
    'weak'
    >>> emag.ASAG(1).neutral  # at scale 1 nothing is evaluated
    True
    """

    layers: tuple[int, ...] | None = None
    iterations: int = 2

    name = "asag"
    paper = "arXiv 2511.07499"

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.iterations) is not int or self.iterations < 1:
            raise BadValue(f"asag iterations must be a whole number of at least 1, got {self.iterations!r}")

    @property
    def perturbation(self) -> SinkhornAttention:
        assert self.layers is not None
        return SinkhornAttention(self.layers, self.iterations)
