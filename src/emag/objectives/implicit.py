"""GFT: a network that is trained as the conditional one in disguise, and so is the guided one by itself."""

import torch

from ..errors import BadValue
from ..maths.vectors import per_sample, widened
from .rows import fixed, row_errors


def gft_implied(guided: torch.Tensor, null: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    r"""What GFT trains as conditional, arXiv 2501.15420: $\beta f(x, c, \beta) + (1 - \beta)\,\mathrm{sg}[f(x, 1)]$.

    guided: f under the condition, given beta. null: f without one, in eval mode. beta: [batch], in (0, 1], the inverse of
    the scale. Works on predictions [batch, ...] and on raw logits [batch, ..., vocabulary] alike. Raises `BadValue`.
    """
    if beta.shape != guided.shape[:1] or not bool(((beta > 0) & (beta <= 1)).all()):
        raise BadValue(f"beta is one number in (0, 1] for each of {len(guided)} rows, the inverse of a scale")
    share = per_sample(beta, guided)
    return share * widened(guided) + (1 - share) * fixed(null)


def gft_loss(guided: torch.Tensor, null: torch.Tensor, data: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Guidance-free training (GFT), arXiv 2501.15420: the mean square error of `gft_implied` to the plain target `data`.

    Rows of dropped conditions give their own prediction as `guided`, keep the beta they drew in the mix, and are told 1 by
    `gft_told`. The optimum is u + (c - u) / beta: sample it with beta = 1 / w, one evaluation a step. Raises `BadValue`.
    """
    return row_errors(gft_implied(guided, null, beta), data).mean()


def gft_told(beta: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """The beta that the network of `gft_loss` is told, [batch]: 1 in rows whose condition was dropped ([batch] bool)."""
    return torch.where(dropped, torch.ones_like(beta), beta)
