"""Where a ComfyUI run is: its noise levels as ours, each evaluation found by its sigma.

ComfyUI's x is data + sigma noise for the variance preserving models, whose network sees x / (1 + sigma^2)^(1/2): there
alpha is that factor. For flow models x = (1 - sigma) data + sigma noise, as ours. Its predictions are all of the clean
sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core import Step
from ...engine.trajectory import Trajectory
from ...errors import Unsupported
from ...maths.predictions import Space, difference_scale, from_x0
from ...maths.streams import Streams

SPACES: dict[str, Space] = {"CONST": "flow", "V_PREDICTION": "v", "EPS": "epsilon"}
"""ComfyUI's kinds of prediction that we know, by the class its model sampling derives from."""
OTHERS = ("X0", "EDM", "V_PREDICTION_DDPM", "COSMOS_RFLOW", "IMG_TO_IMG", "IMG_TO_IMG_FLOW")
"""Kinds that derive from those, and mean something else."""
NEAR = 1e-4  # sigmas this close, relatively, are one level


@dataclass(frozen=True)
class Levels:
    """The noise levels of one run. sigmas: ComfyUI's own, each once, in order."""

    sigmas: tuple[float, ...]
    trajectory: Trajectory

    @classmethod
    def of(cls, sampling: Any, sigmas: Sequence[float]) -> "Levels":
        """Those of a run from sigmas[0] to sigmas[-1]. Raises `Unsupported` for a kind of prediction we do not know."""
        space = space_of(sampling)
        own = tuple(dict.fromkeys(sigmas[:-1]))
        pairs = [level(space, sigma) for sigma in own]
        alphas, ours = tuple(a for a, _ in pairs), tuple(s for _, s in pairs)
        times = ours if space == "flow" else tuple(_time(sampling, sigma) for sigma in own)
        index = tuple(range(len(own)))
        return cls(own, Trajectory(times, index, times, alphas, ours, space, level(space, sigmas[-1])))

    @property
    def space(self) -> Space:
        """The network's own prediction."""
        return self.trajectory.space

    def at(self, sigma: float) -> int | None:
        """The level of the run that `sigma` is, None for one of a sampler's own."""
        return next((i for i, own in enumerate(self.sigmas) if abs(own - sigma) <= NEAR * max(own, NEAR)), None)

    def index(self, sigma: float) -> int:
        """The step that an evaluation at `sigma` belongs to: a level of the run, or the one last passed on the way."""
        near, passed = self.at(sigma), [i for i, own in enumerate(self.sigmas) if own >= sigma]
        return max(passed, default=0) if near is None else near

    def step(self, x: torch.Tensor, sigma: float, streams: Streams) -> Step:
        """The step of an evaluation at x [batch, ...] and `sigma`, at that very level; it may lie between two of the run."""
        index, (alpha, ours) = self.index(sigma), level(self.space, sigma)
        step = self.trajectory.step(index, x.float() * self.scale(sigma), streams)
        return replace(step, alphas=_with(step.alphas, index, alpha), sigmas=_with(step.sigmas, index, ours))

    def scale(self, sigma: float) -> float:
        """What ComfyUI's x is multiplied by to be the network's."""
        return 1.0 if self.space == "flow" else level(self.space, sigma)[0]


def prediction(denoised: torch.Tensor, step: Step) -> torch.Tensor:
    """ComfyUI's prediction of the clean sample as the network's own, fp32."""
    return from_x0(denoised.float(), step.x, step.alpha, step.sigma, step.space)


def moved(denoised: torch.Tensor, by: torch.Tensor, step: Step) -> torch.Tensor:
    """`denoised` after the network's own prediction has moved by `by`."""
    return denoised + (by * difference_scale(step.alpha, step.sigma, step.space, "x0")).to(denoised.dtype)


def space_of(sampling: Any) -> Space:
    """The space of a model's predictions. Raises `Unsupported` for one we do not know."""
    kinds = [base.__name__ for base in type(sampling).__mro__]
    direct = next((kind for kind in kinds if kind in (*SPACES, *OTHERS)), "no kind")
    if direct not in SPACES or getattr(sampling, "sigma_data", 1.0) != 1.0:
        raise Unsupported(f"this model predicts as {direct} does, in ComfyUI's words; emag knows {', '.join(SPACES)}")
    return SPACES[direct]


def level(space: Space, sigma: float) -> tuple[float, float]:
    """(alpha, sigma) of ours at ComfyUI's `sigma`."""
    if space == "flow":
        return 1 - sigma, sigma
    alpha = (1 + sigma * sigma) ** -0.5
    return alpha, sigma * alpha


def _time(sampling: Any, sigma: float) -> float:
    """The timestep as a fraction of the training schedule."""
    found = float(sampling.timestep(torch.tensor([sigma])))
    return found / getattr(sampling, "num_timesteps", 1000)


def _with(values: tuple[float, ...], index: int, value: float) -> tuple[float, ...]:
    return (*values[:index], value, *values[index + 1:])
