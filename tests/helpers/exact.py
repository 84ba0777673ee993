"""Ground truth in closed form: data whose denoiser is known exactly, on any path x = alpha x0 + sigma epsilon.

Points x are [batch, d], or [batch, ...] with d numbers per sample; answers have the shape of x. Everything is computed in
the dtype of the data's mean (use float64) and answered in that of x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Net = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Gaussian:
    """N(mean, cov). mean: [d]; cov: [d, d], a diagonal [d], or one number (isotropic, a 0-d tensor)."""

    mean: torch.Tensor
    cov: torch.Tensor

    @property
    def matrix(self) -> torch.Tensor:
        """The covariance as [d, d]."""
        return self.cov if self.cov.ndim == 2 else torch.diag(self.cov.expand_as(self.mean))

    def marginal(self, alpha: float, sigma: float) -> "Gaussian":
        """The distribution of x_t."""
        return Gaussian(alpha * self.mean, alpha**2 * self.matrix + sigma**2 * torch.eye(len(self.mean)).to(self.mean))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Log density, [batch]."""
        normal = torch.distributions.MultivariateNormal(self.mean, self.matrix)
        return normal.log_prob(x.flatten(1).to(self.mean)).to(x.dtype)

    def score(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """Gradient of log p(x_t)."""
        return -self._whitened(x, alpha, sigma).reshape(x.shape).to(x.dtype)

    def predict(self, x: torch.Tensor, alpha: float, sigma: float, space: str) -> torch.Tensor:
        """What a perfect network returns: the posterior mean of epsilon, v, flow or x0."""
        white = self._whitened(x, alpha, sigma)
        x0, noise = self.mean + alpha * white @ self.matrix, sigma * white
        answers = {"x0": x0, "epsilon": noise, "v": alpha * noise - sigma * x0, "flow": noise - x0}
        return answers[space].reshape(x.shape).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n clean samples, [n, d]."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + noise @ torch.linalg.cholesky(self.matrix).mT

    def _whitened(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        at = self.marginal(alpha, sigma)
        return torch.linalg.solve(at.cov, x.flatten(1).to(self.mean) - at.mean, left=False)


@dataclass(frozen=True)
class Mixture:
    """sum_k weights[k] components[k]. weights: [K], above 0, summing to 1. Component k is the data of label k."""

    weights: torch.Tensor
    components: tuple[Gaussian, ...]

    def marginal(self, alpha: float, sigma: float) -> "Mixture":
        return Mixture(self.weights, tuple(part.marginal(alpha, sigma) for part in self.components))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return self._joint(x).logsumexp(1).to(x.dtype)

    def posterior(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """p(label | x_t), [batch, K]."""
        return self.marginal(alpha, sigma)._joint(x).softmax(1)

    def score(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        return self._average(x, alpha, sigma, [part.score(x, alpha, sigma) for part in self.components])

    def predict(self, x: torch.Tensor, alpha: float, sigma: float, space: str) -> torch.Tensor:
        return self._average(x, alpha, sigma, [part.predict(x, alpha, sigma, space) for part in self.components])

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        drawn = torch.stack([part.sample(n, generator) for part in self.components])
        return drawn[labels, torch.arange(n)]

    def _joint(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(self.weights)
        return torch.stack([part.log_prob(wide) for part in self.components], 1) + self.weights.log()

    def _average(self, x: torch.Tensor, alpha: float, sigma: float, answers: list[torch.Tensor]) -> torch.Tensor:
        shares = self.posterior(x, alpha, sigma)
        total = torch.einsum("bk,kbd->bd", shares, torch.stack(answers).flatten(2).to(shares))
        return total.reshape(x.shape).to(x.dtype)


def power_product(a: Gaussian, b: Gaussian, w: float) -> Gaussian:
    """The density proportional to a^(1 - w) b^w: what CFG aims at where a is unconditional and b conditional.

    Raises `ValueError` where it cannot be normalised.
    """
    scaled = (1 - w) * torch.linalg.inv(a.matrix), w * torch.linalg.inv(b.matrix)
    precision = scaled[0] + scaled[1]
    if not torch.linalg.eigvalsh(precision).min() > 0:
        raise ValueError(f"a^(1 - w) b^w has no finite mass at w = {w}")
    mean = torch.linalg.solve(precision, scaled[0] @ a.mean + scaled[1] @ b.mean)
    cov = torch.linalg.inv(precision)
    return Gaussian(mean, (cov + cov.mT) / 2)


class counting:
    """`fn` itself, with the calls and the rows of x (its first argument) it has seen."""

    def __init__(self, fn: Net):
        self.fn, self.calls, self.rows = fn, 0, 0

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return self.fn(x, *args, **kwargs)


def constant(c: torch.Tensor) -> Net:
    """A network that returns `c` in the shape of x, whatever else it is given."""
    return lambda x, *args, **kwargs: c.to(x.dtype).expand_as(x)
