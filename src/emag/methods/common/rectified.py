"""Entropy rectifying: the attention of image queries at another temperature, as one or more steps on its energy."""

from dataclasses import dataclass

import torch

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention, differ
from ...maths.streams import Streams


@dataclass(frozen=True)
class RectifiedAttention(OnLayers):
    """The weak branch of ERG on `layers`: Q <- Q - gamma (Q - alpha softmax(tau S(Q)) V), `steps` times, is the output."""

    tau: float
    alpha: float = 1.0
    gamma: float = 1.0
    steps: int = 1
    under: str | None = None

    @property
    def condition(self) -> str | None:
        return self.under

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "RectifiedState":
        return RectifiedState(self)


class RectifiedState(State):
    """No memory: what it does depends on the live call alone."""

    proves = True

    def __init__(self, spec: RectifiedAttention):
        super().__init__()
        self.spec = spec

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        out = live.clone()
        out[:, :, call.image] = rectified(call, sdpa, self.spec)
        self.note(differ(out, live))
        return out


def rectified(call: Attention, sdpa: Sdpa, spec: RectifiedAttention) -> torch.Tensor:
    """The image rows of the output, [B, H, image tokens, d].

    tau scales the queries that the attention gets, behind their norm and rotary: the logits, and nothing else.
    """
    state = call.image_queries()
    for _ in range(spec.steps):
        q = call.q.clone()
        q[:, :, call.image] = spec.tau * state
        # a step of size gamma down an energy whose gradient is Q - alpha softmax(tau S(Q)) V; of size 1 it is attention
        found = sdpa(q)[:, :, call.image]
        state = spec.alpha * found if spec.gamma == 1 else state - spec.gamma * (state - spec.alpha * found)
    return state


def check_rectified(name: str, knobs: tuple[float, float, float], steps: int) -> None:
    """Raise `BadValue` where tau, alpha and gamma (`knobs`) or the number of steps make no attention."""
    if not all(0 <= value < float("inf") for value in knobs):
        raise BadValue(f"{name} tau, alpha and gamma must be at least 0 (1 is standard attention), got {knobs}")
    if type(steps) is not int or steps < 1:
        raise BadValue(f"{name} steps must be a whole number of at least 1, got {steps!r}")
