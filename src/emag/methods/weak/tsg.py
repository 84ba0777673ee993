"""Time-step guidance: the timestep's embedding made uncertain."""

from dataclasses import dataclass

import torch

from ...core import Perturbation, State, Step
from ...errors import BadValue, Unsupported
from ...maths.streams import Streams
from ..common.push import Push


@dataclass(frozen=True)
class NoisyTime(Perturbation):
    """Noise of size strength t^power on the embedding of the timestep."""

    strength: float
    power: float
    relative: bool

    @property
    def modules(self) -> str | None:
        return "time"

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return NoisyTimeState(self, streams)


class NoisyTimeState(State):
    """time: t of the step, as a fraction of the training schedule."""

    def __init__(self, spec: NoisyTime, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams
        self.time = 0.0

    def predicted(self, step: Step, cond: torch.Tensor) -> None:
        self.time = step.time

    def look_output(self, value: torch.Tensor, rows: int) -> None:
        if value.shape[0] not in (1, rows):
            raise Unsupported("tsg needs one timestep per image; this network embeds one per token")

    def output(self, name: str, value: torch.Tensor) -> torch.Tensor:
        rows = len(self.streams.source)
        self.look_output(value, rows)
        wide = value.float().expand(rows, *value.shape[1:])
        # t is 1 in pure noise and falls along the run, and so does the doubt about it
        size = self.spec.strength * self.time**self.spec.power
        unit = wide.std(-1, keepdim=True, correction=0) if self.spec.relative else 1.0
        # one draw for all embedders: the copies of it that a network holds (DiT: one per block) mean one embedding
        return (wide + size * unit * self.streams.normal("tsg", wide)).to(value.dtype)


@dataclass(frozen=True)
class TSG(Push):
    """Time-step guidance: push away from a network whose embedding of the timestep is noisy.

    The weak branch's time embedding is t_emb + s t^alpha n, n standard normal. It needs no condition, and works on
    unconditional networks. All blocks see the new embedding: a choice of layers is not offered. t is a fraction of the
    training schedule, 1 is noise. The paper's s, alpha, unit of t and range of t are unconfirmed: all defaults are
    untested ones. For a range say scale=Interval(...).

    Args:
        strength: s, the size of the noise, at least 0; 0 is off.
        power: alpha, at least 0. Above 0 the noise fades along the run, 0 is the same at every step.
        relative: s is in units of the standard deviation of the embedding, per sample; else in those of the embedding.

    >>> import emag
    >>> rule = emag.TSG(1.5, strength=0.5)
    >>> rule.neutral, emag.TSG(1.5, strength=0).neutral
    (False, True)
    """

    strength: float = 1.0
    power: float = 1.0
    relative: bool = True

    name = "tsg"
    paper = "arXiv 2407.02687"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < float("inf") or not 0 <= self.power < float("inf"):
            raise BadValue(f"tsg strength and power must be finite and at least 0, got {self.strength} and {self.power}")

    @property
    def neutral(self) -> bool:
        return super().neutral or self.strength == 0

    @property
    def perturbation(self) -> Perturbation:
        return NoisyTime(self.strength, self.power, self.relative)
