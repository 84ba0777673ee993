"""A run in stages of growing size, each of which goes on from what the one before made: FreCaS, arXiv 2410.18410.

A stage ends early, its estimate of the clean image is enlarged, gets new noise, and the next stage takes it from there. Its
guidance is `FACFG`: stronger on the band that the stage adds. `MapFusion` keeps words where the smaller image had them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..core import FiniteFields
from ..errors import BadValue
from ..methods.attention.map_fusion import FusedState, MapFusion
from ..samplers import Solver, sample
from ..samplers.loop import Progress
from ..samplers.path import Path
from .function import Function
from .latents import scaled, unscaled
from .network_function import InsideNetwork

Grow = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""(clean latents [batch, channels, h, w], new (height, width)) -> latents of that size."""


@dataclass(frozen=True)
class Stage(FiniteFields):
    """One stage: latents of `size` (height, width), `steps` evaluations, the last of them at the time `end` in [0, 1).

    Published, as (steps, end) of each stage: SD2.1 at 1024 (40, 0.1), (10, 0); SDXL at 2048 (40, 0.2), (10, 0); at 4096
    (30, 0.4), (5, 0.2), (15, 0); SD3 20 and 8 steps.
    """

    size: tuple[int, int]
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1 or self.steps < 1 or not 0 <= self.end < 1:
            raise BadValue("a stage has a size (height, width), at least 1 step, and ends at a time in [0, 1), got "
                           f"{self.size}, {self.steps}, {self.end}")


def stage_paths(table: Path, stages: Sequence[Stage], gamma: float) -> list[Path]:
    """The path of each stage, from levels of `table`, the levels of training from time 1 to 0; arXiv 2410.18410.

    Even steps in time from where the stage starts to its end, and from there at once to clean. A stage starts where noise
    over signal is (new side / old side)^(gamma / 2) times that of the end of the one before. gamma: 1 on a flow path, as
    published; 3 on SD2.1, 1.5 on SDXL at 2048 and 2 at 4096 are published.
    """
    ratios, first, last, paths = table.ratios, 0, 0, list[Path]()
    for at, stage in enumerate(stages):
        if at:
            larger = max(new / old for new, old in zip(stage.size, stages[at - 1].size))
            wanted = ratios[last] * larger ** (gamma / 2)
            first = min(range(len(table)), key=lambda i: abs(ratios[i] - wanted))
        last = min(round((1 - stage.end) * len(table)), len(table) - 1)
        places = [first + (last - first) * i // max(1, stage.steps - 1) for i in range(stage.steps)]
        if len(set(places)) < stage.steps or last < first:
            raise BadValue(f"stage {at + 1} has {stage.steps} steps between levels {first} and {last} of {len(table)}: let "
                           "it end later, or the one before earlier, or take fewer steps")
        picked = [*places, len(table)]
        paths.append(Path(tuple(table.alphas[i] for i in picked), tuple(table.sigmas[i] for i in picked)))
    return paths


def enlarged(x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clean latents enlarged as they are, each place repeated: where latents are pixels."""
    return F.interpolate(x0, size=size, mode="nearest")


def through_pixels(vae: Any) -> Grow:
    """Enlarged as the authors do: decoded, clipped to [-1, 1], each pixel repeated, and encoded again (its mean)."""
    def grow(x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        pixels = vae.decode(unscaled(vae, x0).to(vae.dtype), return_dict=False)[0].clamp(-1, 1)
        zoom = pixels.shape[-1] // x0.shape[-1]
        large = F.interpolate(pixels, size=(size[0] * zoom, size[1] * zoom), mode="nearest")
        return scaled(vae, vae.encode(large).latent_dist.mode()).to(x0.dtype)

    return grow


@torch.no_grad()
def cascade(models: Sequence[Function], x: torch.Tensor, sizes: Sequence[tuple[int, int]], *, grow: Grow = enlarged,
            solver: Solver | None = None, on_step: Progress | None = None) -> torch.Tensor:
    """Clean latents of the last stage, from noise x [batch, channels, h, w] of the first; arXiv 2410.18410.

    models: one `emag.guided` for each stage, on its path of `stage_paths`, with its rules: CFG first, then
    FACFG(high, low, size=that of the stage before), and MapFusion in all of them where maps are fused. sizes: of each
    stage's latents. New noise is each sample's own. Raises `BadValue` for other numbers of stages and sizes.
    """
    if len(models) != len(sizes) or not models or tuple(x.shape[-2:]) != tuple(sizes[0]):
        raise BadValue(f"a cascade has a size for each of its {len(models)} stages, the first that of x "
                       f"{tuple(x.shape[-2:])}, got {list(sizes)}")
    for number, (model, size) in enumerate(zip(models, sizes)):
        if number:
            alpha, sigma = model.path.at(0)
            large = grow(x, size)
            x = alpha * large + sigma * models[number - 1].noise(f"cascade/{number}", large)
            model.masks.update(fused_maps(models[number - 1]))
        x = sample(model, x, solver=solver, on_step=on_step)
    return x


def fused_maps(model: Function) -> dict[str, torch.Tensor]:
    """What `MapFusion` took down in the last step of a stage, as masks for the next one; nothing where it has none."""
    if not isinstance(model.network, InsideNetwork):
        return {}
    branches = itertools.chain.from_iterable(rule.weak for rule in model.rules if isinstance(rule, MapFusion))
    states = [model.network.course.states[branch] for branch in branches]
    return {name: maps for state in states if isinstance(state, FusedState) for name, maps in state.maps().items()}
