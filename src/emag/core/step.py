"""One denoising step as rules see it, and the predictions that are made in it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

import torch

from ..maths.predictions import Space
from ..maths.streams import Streams

Side = Literal["cond", "uncond"]
"""Whose condition it is that a prediction is made under: the prompt's, or the one to be away from."""

COND: Final = "cond"
UNCOND: Final = "uncond"

Branches = Mapping[Hashable, torch.Tensor]
"""Predictions of one step by branch: COND, UNCOND (where there is one) and every further branch asked for."""

Score = Callable[[torch.Tensor], torch.Tensor]
"""How good images are: [batch, 3, height, width] in [0, 1] -> [batch], one number for each alone; higher is better."""

EstimateOf = Literal["guided", "cond", "uncond"]
"""Whose clean sample: that of the rules before, which CFG among them combined, or of one clean branch."""


@dataclass(frozen=True)
class Part:
    """The frames of a video that a score looks at, by number from 0, negative ones from the end.

    before: latents before a frame's own that are decoded with it; None is all.
    """

    frames: tuple[int, ...]
    before: int | None = None


@dataclass(frozen=True)
class Sparing:
    """How a rule that looks further spares memory.

    checkpoint: passes that are differentiated keep the inputs of the network's parts alone, and those of the decoder's.
    decoder: an autoencoder in the place of the pipeline's own, or where it is.
    """

    checkpoint: bool = False
    decoder: str | Callable[..., Any] | None = None

    @classmethod
    def of(cls, rule: Any) -> "Sparing":
        """What a rule says of it in the fields of these names, where it has them."""
        return cls(getattr(rule, "checkpoint", False), getattr(rule, "decoder", None))


PLENTY = Sparing()
"""Memory is not spared."""


class Access(Protocol):
    """What a host offers, within a step, to a rule that looks further than the predictions it is given."""

    def estimate(self, x: torch.Tensor, of: EstimateOf, ahead: int = 0) -> torch.Tensor:
        """The clean sample that is estimated at x [batch, ...], by passes of its own; differentiable in x.

        ahead: x is a sample of the level so many steps on, and the network is told its time. Raises `Unsupported` where
        nobody evaluates it.
        """
        ...

    def under(self, names: Sequence[str]) -> torch.Tensor:
        """The clean sample that is estimated at x_t, row r under the condition of name names[r], by a pass of its own."""
        ...

    def decode(self, x0: torch.Tensor, part: "Part | None" = None) -> torch.Tensor:
        """Images [batch, 3, height, width] in [0, 1] of clean samples, as the host makes them; differentiable.

        Of a video [batch, 3, frames, height, width]: all frames, or those of `part` alone.
        """
        ...

    def score(self, name: str) -> Score:
        """The score of that name."""
        ...


@dataclass(frozen=True)
class Look:
    """One evaluation that a rule asks of `Step.access`. backward: it is differentiated; ahead: it is so many steps on."""

    of: EstimateOf
    backward: bool
    ahead: int = 0


@dataclass(frozen=True)
class Step:
    """Where a run is: what rules may know of one denoising step.

    `index` counts distinct timesteps from 0 (noisiest) to `count - 1`, `alphas` and `sigmas` are theirs, and `end` is the
    (alpha, sigma) the sampler ends at; x = alpha x0 + sigma epsilon. `time` is the timestep as a fraction of the training
    schedule (1 is noise). `x` is x_t of the conditional rows in fp32, [batch, ...]; `space` that of the predictions.
    `grid`: ([frames,] rows, columns, patch) where x is a sequence of patches. `masks`: named masks the host was given.
    `given`: tensors of further conditions that a condition rule names, by condition and argument, each [1 or samples, ...].
    `seen`: what the observers asked for saw. `fresh`: another network has just taken over. `clock`: what the scheduler's
    timestep rises by as `time` rises from 0 to 1. `image`: the clean sample that the run starts from, with noise on it,
    shaped as x; None where it starts from noise, or the host does not tell. `access`: for rules that look further; None
    where no host offers it. `times`: the `time` of every step.
    """

    index: int
    sigmas: tuple[float, ...]
    alphas: tuple[float, ...]
    time: float
    space: Space
    x: torch.Tensor = field(repr=False)
    streams: Streams = field(repr=False)
    branch: Side = COND
    end: tuple[float, float] = (1.0, 0.0)
    grid: tuple[int, ...] | None = None
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    seen: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    fresh: bool = False
    clock: float = 1.0
    image: torch.Tensor | None = field(default=None, repr=False)
    access: Access | None = field(default=None, repr=False)
    times: tuple[float, ...] = field(default=(), repr=False)

    @property
    def count(self) -> int:
        return len(self.sigmas)

    @property
    def alpha(self) -> float:
        return self.alphas[self.index]

    @property
    def sigma(self) -> float:
        return self.sigmas[self.index]

    @property
    def ratio(self) -> float:
        """sigma / alpha: the noise level of EDM."""
        return self.sigma / self.alpha if self.alpha else float("inf")

    @property
    def flow_time(self) -> float:
        """sigma / (alpha + sigma): the time of a flow model at this noise level, 1 at pure noise."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def path_space(self) -> Space:
        """Where the sampler's path is straight: "flow" if alpha = 1 - sigma at all steps, else "epsilon"."""
        straight = all(abs(alpha + sigma - 1) < 1e-4 for alpha, sigma in zip(self.alphas, self.sigmas, strict=True))
        return "flow" if straight else "epsilon"

    @property
    def next(self) -> tuple[float, float]:
        """(alpha, sigma) that the sampler goes to."""
        after = self.index + 1
        return self.end if after >= self.count else (self.alphas[after], self.sigmas[after])

    def following(self, x: torch.Tensor, by: int = 1) -> "Step":
        """The step so many after this one, at x [batch, ...]: for predictions beside the run."""
        return replace(self, index=self.index + by, time=self.times[self.index + by], x=x)

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last (0 where there is only one)."""
        return self.index / max(1, self.count - 1)


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before its network evaluates anything.

    first: its first step. steps: all of them, without x_t. tokens: image tokens along each dimension of the latents,
    ([frames,] rows, columns), and arguments: those of the network's first call; neither where it is not known.
    """

    first: Step
    steps: tuple[Step, ...]
    tokens: tuple[int, ...] = ()
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenStep(Step):
    """One token of a run over tokens. `x`: the tokens so far, [rows, length]; there is no noise, alpha and sigma are NaN.

    cond: what the host predicts, in `space`, [rows, vocabulary]: known before any other branch is evaluated.
    live: which rows still grow, [rows]; a row that has ended is carried along and read by nobody. Where a model predicts
    several places of a row at once, cond is [rows, places, vocabulary], and live may be [rows, places].
    """

    cond: torch.Tensor = field(repr=False)
    live: torch.Tensor = field(repr=False)
