"""Objectives for models that know likelihoods: contrast (CCA), and the distance to guided logits."""

import math

import torch
from torch.nn.functional import logsigmoid

from ..errors import BadValue
from ..maths.logits import guide_logits
from ..maths.vectors import widened
from .rows import fixed


def cca_loss(own: torch.Tensor, own_reference: torch.Tensor, other: torch.Tensor, other_reference: torch.Tensor,
             matched: torch.Tensor, beta: float = 0.02, weight: float = 300.0) -> torch.Tensor:
    r"""Condition contrastive alignment, arXiv 2410.09347: $-\log\sigma(\beta r(x, c)) - \lambda\log\sigma(-\beta r(x, c'))$.

    own, other: log p(x | c) of the student under each sample's own condition and under another's (labels shifted by one),
    [batch], summed over tokens; the references: of the frozen model. r is their difference. matched: [batch] bool, rows
    whose other condition says the same after all or was dropped: those count as true ones. weight: lambda, 50 to 1000 in
    the paper; beta 0.02. Divided by max(lambda, 1). At the optimum r = (log p(x | c) / p(x) - log lambda) / beta, which
    after normalising is guidance by 1 + 1 / beta. Raises `BadValue`.
    """
    if not (beta > 0 and 0 < weight < math.inf):
        raise BadValue(f"beta and weight must be above 0, got {beta} and {weight}")
    true = -logsigmoid(beta * (widened(own) - fixed(own_reference)))
    ratio = beta * (widened(other) - fixed(other_reference))
    false = torch.where(matched, -logsigmoid(ratio), -weight * logsigmoid(-ratio))
    return (true + false).mean() / max(weight, 1.0)


def guided_kl(student: torch.Tensor, cond: torch.Tensor, null: torch.Tensor, scale: float) -> torch.Tensor:
    r"""Diversity-rewarded distillation, arXiv 2410.06084: $\sum_t KL(\pi \,\Vert\, \mathrm{softmax}(u + w (c - u)))$.

    student, cond, null: logits [batch, tokens, vocabulary] on prefixes that the student drew itself. scale: w, at least
    0; the paper's is unknown here. Summed over tokens, averaged over rows; 0 exactly where the student is the guided
    teacher. The gradient is that of the distance at given prefixes. Raises `BadValue`.
    """
    ours = widened(student).log_softmax(-1)
    theirs = guide_logits(fixed(cond), fixed(null), scale).log_softmax(-1)
    # a token that the teacher excludes (-inf) and the student does too adds nothing
    terms = torch.where(ours == -torch.inf, 0.0, ours.exp() * (ours - theirs))
    return terms.sum(-1).flatten(1).sum(1).mean()


def diversity_reward(embeddings: torch.Tensor) -> torch.Tensor:
    """Diversity-rewarded distillation's reward, arXiv 2410.06084: 1 less the mean cosine of two samples of one prompt.

    embeddings: [prompts, samples, dim], of at least two samples each; which embedding is the user's to choose. Returns
    [prompts]; 0 for equal samples. Raises `BadValue`.
    """
    count = embeddings.shape[1]
    if embeddings.ndim != 3 or count < 2:
        raise BadValue(f"diversity is between samples: give [prompts, samples, dim] with 2 samples or more, got "
                       f"{tuple(embeddings.shape)}")
    unit = torch.nn.functional.normalize(widened(embeddings), dim=-1)
    # the sum over all pairs is |sum|^2; less the pairs of a sample with itself, over the ordered pairs that are left
    pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return 1 - pairs / (count * (count - 1))
