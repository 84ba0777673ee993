"""Runs over made-up predictions: the algebra of rules without any network."""

from collections.abc import Callable, Sequence

import torch

from ...core import COND, UNCOND, Branches, Rule, Step, combine, with_null
from ...maths.predictions import Space, convert
from ...maths.streams import Streams

SPACES: dict[str, tuple[Space, ...]] = {"vp": ("epsilon", "v", "x0"), "flow": ("epsilon", "flow", "x0")}
"""Prediction spaces by path: x_t = alpha x0 + sigma epsilon, with alpha^2 + sigma^2 = 1 or with alpha + sigma = 1."""
STEPS, SAMPLES, LATENT = 6, 3, (4, 6, 6)

Change = Callable[[Branches], Branches]


def levels(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sigmas and alphas of a short run, noisiest first."""
    sigmas = tuple(0.95 - 0.15 * i for i in range(STEPS))
    return sigmas, tuple((1 - s**2) ** 0.5 if path == "vp" else 1 - s for s in sigmas)


def draws(seed: int, count: int) -> list[torch.Tensor]:
    """`count` tensors of noise, [SAMPLES, *LATENT], fp32."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SAMPLES, *LATENT, generator=generator) for _ in range(count)]


def unchanged(branches: Branches) -> Branches:
    return branches


def run(rules: Sequence[Rule], path: str = "vp", space: Space = "epsilon", rows: slice = slice(None),
        change: Change = unchanged, dtype: torch.dtype = torch.float64, told: Space = "x0") -> torch.Tensor:
    """The guided and the unconditional prediction of every step, [STEPS, 2, samples, *LATENT], in the space `told`.

    The made-up branches are the same in every `space` in which the rules get them. rows: the samples that are there.
    """
    sigmas, alphas = levels(path)
    states: list[dict] = [{} for _ in rules]
    streams = Streams.of(draws(99, 1)[0][rows])
    made = []
    for i in range(STEPS):
        x, cond, uncond = (t[rows].to(dtype) for t in draws(i, 3))
        at = (x, alphas[i], sigmas[i])
        branches = change({COND: cond, UNCOND: 0.5 * cond + uncond})
        given = {name: convert(p, *at, told, space) for name, p in branches.items()}
        step = Step(index=i, sigmas=sigmas, alphas=alphas, time=sigmas[i], space=space, x=x, streams=streams)
        after = with_null(rules, given, step, states)
        pred = combine(rules, after[COND], after, step, states)
        pair = torch.stack([pred, after[UNCOND]])
        made.append(convert(pair, torch.stack([x, x]), alphas[i], sigmas[i], space, told))
    return torch.stack(made)
