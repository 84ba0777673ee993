"""The reverse SDE: a step that adds noise, and how much a step of several densities is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue, Unsupported
from ..maths.predictions import to_x0
from .base import GuidedModel, Solver
from .particles import pairs, squares
from .path import Path

Powers = tuple[tuple[str, float], ...]
"""The exponents b of a target density prod q_b^b, by branch."""


@dataclass(frozen=True)
class Kernel:
    """One step of the reverse SDE of prod q_b^b: x' = keep x + pull m + noise n, m the average of the x0 with weights b / B.

    With k = sigma / alpha, D = k^2 - k'^2, B = sum b, and tau the variance of the data per element: in z = x / alpha,
    z' = z + (D / f) sum b s_b + sqrt(share D / f) n, where share = (tau + k'^2) / (tau + k^2) and f = B - (B - 1) share^2.
    Each density's own step would be N(z + D s_b, share D), exact for Gaussian data of variance tau; this one is the product
    of those to the powers b, over the steps back, and `change` is what is left over. Short steps are the SDE, share = f = 1.
    """

    keep: float
    pull: float
    noise: float
    share: float
    fall: float
    lost: float

    def change(self, noises: Sequence[torch.Tensor], powers: Sequence[float]) -> torch.Tensor:
        """Change of the log-weights, [batch] float64, (D / 2 share) (|sum b s_b|^2 / f - sum b |s_b|^2), from the noise
        predictions [batch, ...] of the densities. Written so that it is exactly 0 for equal predictions where B is 1."""
        if self.share == 0:  # from pure noise, where no x0 depends on x: all particles weigh the same
            return torch.zeros(len(noises[0]), dtype=torch.float64, device=noises[0].device)
        over = surplus(powers) * self.share * squares(noises, powers)
        return self.lost / (2 * self.fall) * (over - pairs(noises, powers) / self.share)


def reverse_kernel(path: Path, i: int, total: float = 1.0, spread: float = 1.0, end: bool = True) -> Kernel:
    """The step from level i of densities whose exponents sum to `total`. end: at sigma 0, arrive without noise, at m."""
    (alpha, sigma), (after, rest) = path.at(i), path.at(i + 1)
    left = path.shrink(i, i + 1) ** 2
    spread = 0.0 if end and rest == 0 else spread
    # in x, so that alpha may be 0
    variance = spread * after**2 + rest**2
    share = variance * alpha**2 / ((spread * alpha**2 + sigma**2) * after**2)
    fall = total - (total - 1) * share**2
    pull = after * (1 - left) * total / fall
    keep = after * (left * total - (total - 1) * share**2) / (alpha * fall) if alpha else 0.0
    noise = math.sqrt(variance * (1 - left) * sigma**2 / (spread * alpha**2 + sigma**2) / fall)
    return Kernel(keep, pull, noise, share, fall, 1 - left)


def surplus(powers: Sequence[float]) -> float:
    """sum b - 1, and exactly 0 where only rounding is left of it."""
    rest = sum(powers) - 1
    return 0.0 if abs(rest) < 1e-9 else rest


@dataclass(frozen=True)
class ReverseSDE(Solver):
    """The reverse SDE: a step, on any path, that adds fresh noise per sample.

    In z = x / alpha it is dz = 2 k |dk| s + sqrt(2 k |dk|) dW with k = sigma / alpha and s the score of z (Eq. 6 of
    the paper). A step goes to z + (k^2 - k'^2) s with noise of variance (k^2 - k'^2) (spread + k'^2) / (spread +
    k^2), and at sigma 0 to x0 without. Raises `Unsupported` where a branch of `powers` is missing.

    Args:
        powers: (branch, b) pairs: follow sum_b b s_b of the branches, the drift of prod q_b^b, in place of the
            model's own prediction; sum b must be above 0. A branch is "cond", "uncond" or another condition of the
            model's. None follows the model's own.
        spread: variance of the data per element, at least 0, for which that noise is exact: 1 is what latents are
            scaled to, and the larger noise of DDPM (arXiv 2006.11239, 3.2); 0, data of one point, is its smaller one,
            which leaves less grain. None is 0, and beside a corrector that weighs the steps, the corrector's.

    >>> import emag
    >>> emag.ReverseSDE().stochastic, emag.ReverseSDE((("cond", 1.0), ("prompt:a cat", 1.0))).conditions
    (True, ('cond', 'prompt:a cat'))
    """

    powers: Powers | None = None
    spread: float | None = None

    name = "reverse-sde"
    paper = "arXiv 2011.13456"
    equation = "z + (k^2 - k'^2) s + sqrt((k^2 - k'^2) (spread + k'^2) / (spread + k^2)) n"
    stochastic = True

    def __post_init__(self) -> None:
        if self.powers is not None and not sum(b for _, b in self.powers) > 0:
            raise BadValue(f"reverse-sde powers must sum to more than 0, got {self.powers}")
        if self.spread is not None and not 0 <= self.spread < math.inf:
            raise BadValue(f"reverse-sde spread is a variance of at least 0, got {self.spread}")

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.powers or ())

    def check(self, model: GuidedModel) -> None:
        idle = [rule.name for rule in getattr(model, "rules", ()) if rule.kind in ("weak", "after")]
        if self.powers is not None and idle:
            raise Unsupported(f"{self.name} with powers follows the scores of its branches in place of the model's "
                              f"prediction, and {idle[0]} would have no effect: leave one of the two out")

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        total = 1.0
        if self.powers is not None:
            pred, total = average(model.latest, self.powers), surplus([b for _, b in self.powers]) + 1
        move = reverse_kernel(model.path, i, total, self.spread or 0.0)
        x = move.keep * x + move.pull * to_x0(pred, x, *model.path.at(i), model.space)
        return x + move.noise * model.noise(f"{self.name}/{i}", x).to(x) if move.noise else x


def average(branches: Mapping[Any, torch.Tensor], powers: Powers) -> torch.Tensor:
    """The predictions of the branches [batch, ...] averaged with weights b / sum b, in any space."""
    total = sum(b for _, b in powers)
    return torch.stack([b / total * p for (_, b), p in zip(powers, pick(branches, powers))]).sum(0)


def pick(branches: Mapping[Any, torch.Tensor], powers: Powers) -> list[torch.Tensor]:
    """The branches that `powers` names. Raises `Unsupported` where one is missing."""
    missing = [name for name, _ in powers if name not in branches]
    if missing:
        raise Unsupported(f"the step needs the predictions {', '.join(missing)}, and the model evaluated "
                          f"{', '.join(map(str, branches)) or 'none'}. Give it these conditions by name.")
    return [branches[name] for name, _ in powers]
