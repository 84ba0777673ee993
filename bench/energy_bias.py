"""How far energy guidance is from the posterior, on a mixture of two Gaussians whose posterior is known:

    python bench/energy_bias.py --page docs/how-to/energy.md
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import emag
from emag.core import Rule
from emag.samplers import resample, sample

MARKS = "<!-- by bench/energy_bias.py -->", "<!-- end -->"
MEANS, SPREAD, NOISE, SEEN = torch.tensor([-2.0, 2.0]).double(), 0.3, 1.0, 0.5
"""The parts of the mixture, of equal weight; one of its numbers is seen under noise, as SEEN."""
STEPS, COUNT = 40, 4000
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "`classifier`, strength 1": ("classifier", {}), "`tfg-cifar10`": ("tfg-cifar10", {}),
    "`dps`, undivided, strength 1": ("dps", {"normalise": "none"}),
    "the same, strength 0.1": ("dps", {"normalise": "none", "strength": 0.1}),
    "`greed` of 4 steps, strength 0.1": ("greed", {"strength": 0.1}),
    "`greed` of all steps, strength 0.1": ("greed", {"strength": 0.1, "steps": STEPS})}
"""Presets, and what is changed of them. DPS, undivided, is `greed` of one step."""
WEIGHED = "`fkc-reward`, strength 1"
"""Particles of one run, weighed, no gradient taken."""


@dataclass(frozen=True)
class Found:
    """What many numbers are like: the share of those above 0; the mean of all; the spread of the upper ones."""

    upper: float
    mean: float
    spread: float

    @classmethod
    def of(cls, x: torch.Tensor) -> "Found":
        """Of numbers [count]."""
        return cls((x > 0).double().mean().item(), x.mean().item(), x[x > 0].std().item())


def posterior() -> Found:
    """p(x0 | y), y = x0 + noise, which is again a mixture: of weights p(y | part), and narrower parts nearer to y."""
    weights = (-((SEEN - MEANS) ** 2) / (2 * (SPREAD**2 + NOISE**2))).softmax(0)
    variance = 1 / (1 / SPREAD**2 + 1 / NOISE**2)
    means = variance * (MEANS / SPREAD**2 + SEEN / NOISE**2)
    return Found(weights[1].item(), (weights * means).sum().item(), variance**0.5)


def denoised(x: torch.Tensor, sigma: float, condition: Any) -> torch.Tensor:
    """E[x0 | x] of the mixture, exactly: [count, 1]."""
    alpha = (1 - sigma**2) ** 0.5
    variance = alpha**2 * SPREAD**2 + sigma**2
    parts = (-((x[..., None] - alpha * MEANS) ** 2) / (2 * variance)).softmax(-1)
    return (parts * (MEANS + alpha * SPREAD**2 / variance * (x[..., None] - alpha * MEANS))).sum(-1)


def likelihood(x0: torch.Tensor) -> torch.Tensor:
    """log p(y | x0) but for a constant, [count]."""
    return -((x0 - SEEN) ** 2).sum(1) / (2 * NOISE**2)


def drawn(*rules: Rule, count: int = COUNT, steps: int = STEPS) -> torch.Tensor:
    """Numbers [count] that a run under `rules` makes."""
    return sample(_model(rules, steps), _noise(count)).flatten()


def weighed(count: int = COUNT, steps: int = STEPS) -> torch.Tensor:
    """Numbers [count] that particles under the likelihood make, chosen by what is left of their weights."""
    states: list[dict[str, Any]] = []
    x = sample(_model((), steps), _noise(count), emag.FKCReward(reward=likelihood), solver=emag.ReverseSDE(), states=states)
    return x.flatten()[resample(states[0]["log_weights"], torch.tensor(0.5))]


def _model(rules: Sequence[Rule], steps: int) -> Any:
    levels = torch.linspace(0.9999, 0.02, steps).tolist()
    return emag.guided(denoised, *rules, path=emag.Path.variance_preserving((*levels, 0.0)), prediction="x0")


def _noise(count: int) -> torch.Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def table(found: dict[str, Found]) -> str:
    """As a table of Markdown."""
    rows = [f"| {name} | {one.upper:.2f} | {one.mean:+.2f} | {one.spread:.2f} |" for name, one in found.items()]
    return "\n".join(["| | share of the upper part | mean | spread of the upper part |", "|---|---|---|---|", *rows])


def main(page: Annotated[Path | None, typer.Option(help="A page whose marked part is written anew.")] = None) -> None:
    """Print the table; write it into a page."""
    ways = {name: Found.of(drawn(emag.Energy.preset(preset, likelihood, **changes)))
            for name, (preset, changes) in WAYS.items()}
    text = table({"the posterior": posterior(), "no guidance": Found.of(drawn()), **ways,
                  WEIGHED: Found.of(weighed())})
    print(text)
    if page is not None:
        before = page.read_text()
        after, found = re.subn("(?s)(?<=" + MARKS[0] + ").*?(?=" + MARKS[1] + ")", lambda _: f"\n{text}\n", before)
        if found != 1:
            raise SystemExit(f"{page} has {found} places between {MARKS[0]} and {MARKS[1]}, expected one")
        page.write_text(after)


if __name__ == "__main__":
    typer.run(main)
