"""Guidance of token models: pure functions on logits, [..., vocabulary], fp32 or fp64. A scale of 1 is off.

Raw and log-softmaxed logits differ by a constant per row, so both forms sample the same tokens at equal scale.
"""

from collections.abc import Callable

import torch

from ..errors import BadValue


def guide_logits(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """CFG for language models, arXiv 2306.17806: u + w (c - u) on log-softmaxed logits.

    cond, uncond: logits, [..., vocabulary]. scale: w, at least 0; 1 gives c, 0 gives u; additive forms use w - 1.
    Returns log-probabilities up to a constant per row (softmax normalises), same shape. A token that either side
    excludes (-inf) keeps its value in c. Raises `BadValue`.
    """
    return _extrapolate(cond.log_softmax(-1), uncond.log_softmax(-1), scale)


def masked_guidance(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """CFG of masked diffusion language models on raw logits: u + w (c - u), as in LLaDA and A-CFG (arXiv 2505.20199).

    uncond: logits of the input with its prompt masked (LLaDA), or with unsure tokens masked by `remask` (A-CFG).
    scale: w, at least 0; 1 is off. LLaDA's cfg_scale, A-CFG's w and SoftCFG's gamma are scale - 1. Shapes, excluded
    tokens and errors as in `guide_logits`.
    """
    return _extrapolate(cond, uncond, scale)


def remask(tokens: torch.Tensor, probabilities: torch.Tensor, mask_token: int, share: float,
           prompt: torch.Tensor) -> torch.Tensor:
    """A-CFG's weak input, arXiv 2505.20199: the least sure of the generated tokens masked again.

    tokens: [batch, length]. probabilities: [batch, length, vocabulary] of the conditional pass on them; their largest
    value at a position is its confidence. prompt: bool, [batch, length] or [length], True where a token was given.
    share: of the generated tokens of a row, in (0, 1]; floor(share * count), at least one, ties to the first.
    A row with nothing generated is returned as it is: its guided logits are then the conditional ones.
    Returns new tokens, [batch, length]. The paper's share is unconfirmed, hence no default. Raises `BadValue`.
    """
    if not 0 < share <= 1:
        raise BadValue(f"share must lie in (0, 1], got {share}. To switch guidance off, use scale 1.")
    if probabilities.shape[:-1] != tokens.shape:
        raise BadValue(f"probabilities must be [batch, length, vocabulary] for tokens of shape {tuple(tokens.shape)}, "
                       f"got {tuple(probabilities.shape)}")
    if prompt.dtype != torch.bool:
        raise BadValue(f"prompt must be a bool mask (True where a token was given), got {prompt.dtype}")
    generated = (tokens != mask_token) & ~prompt
    confidence = probabilities.amax(-1).masked_fill(~generated, torch.inf)
    # the argsort of an argsort is the rank of each entry
    rank = confidence.argsort(dim=-1, stable=True).argsort(dim=-1)
    chosen = generated & (rank < _portion(generated.sum(-1, keepdim=True), share))
    return tokens.masked_fill(chosen, mask_token)


def soft_value_weights(confidences: torch.Tensor) -> torch.Tensor:
    """SoftCFG's weights of the cached values in the unconditional branch, arXiv 2510.00996: 1 - p_i / sum(p).

    confidences: [..., n], each generated token's largest probability when it was sampled, in (0, 1]. Returns
    [..., n] in [0, 1) with sum(1 - weight) = 1. Multiply the values of the n tokens, not the keys, and keep the cache
    itself unscaled: the weights are new at every token. Combine with `masked_guidance`, gamma = scale - 1.
    Raises `BadValue`.
    """
    if not ((confidences > 0) & (confidences <= 1)).all():
        raise BadValue("confidences must be probabilities in (0, 1]")
    return 1 - confidences / confidences.sum(-1, keepdim=True)


def selective(cond: torch.Tensor, uncond: torch.Tensor | Callable[[], torch.Tensor], scale: float,
              threshold: float) -> torch.Tensor:
    """CFG only where the model is unsure, per row: MTI, arXiv 2510.13940.

    Rows whose entropy exceeds `threshold` get `guide_logits`, the others keep c (as log-probabilities).
    cond: [..., vocabulary]. uncond: the same shape, or a function that returns it, called only if a row needs it.
    scale: w, at least 0; 1 is off and calls nothing. threshold: in nats; below 0 guides every row, inf none; the paper's
    values are unconfirmed, hence no default. Raises `BadValue`.
    """
    if not threshold == threshold:
        raise BadValue("threshold must be a number of nats (inf guides nothing, -1 every row), got nan")
    log_cond = cond.log_softmax(-1)
    unsure = token_entropy(cond).unsqueeze(-1) > threshold
    if _checked(scale) == 1 or not unsure.any():
        return log_cond
    return torch.where(unsure, guide_logits(cond, uncond() if callable(uncond) else uncond, scale), log_cond)


def token_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the distributions of logits [..., vocabulary], in nats, [...]; an excluded token (-inf) adds nothing."""
    # entr is -p log p, and 0 at p = 0
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def reweighted(logp: torch.Tensor, score: torch.Tensor, strength: float) -> torch.Tensor:
    """CAIF and GeDi, arXiv 2205.07276 and 2009.06367: log p(v) + strength log C(v), up to a constant per row.

    logp, score: [..., vocabulary]. score: log-probability of the wanted class once token v is added; -inf where it was not
    asked, which excludes v. What logp excludes stays so.
    """
    pushed = logp + strength * score
    return pushed.masked_fill(score.isneginf() | logp.isneginf(), -torch.inf)


def biased(score: torch.Tensor, bias: float) -> torch.Tensor:
    """log P of a class once `bias` is added to its log-odds, for score = log P, [...], at most 0; -inf stays so."""
    if bias == 0:
        return score
    # log-odds are log P - log(1 - P); at P = 1 they are infinite, and the answer is 0
    return torch.nn.functional.logsigmoid(score - torch.log(-torch.expm1(score)) + bias)


def filtered(logp: torch.Tensor, score: torch.Tensor, mass: float, target: float) -> torch.Tensor:
    """GeDi's filter, arXiv 2009.06367: the tokens that fit the class least are excluded.

    From the lowest class probability up, as long as the guided mass so far is below `mass` (0 filters nothing) and the
    class probability exp(score) below `target`. At least one token stays: the mass of all of them is 1.
    """
    order = score.argsort(dim=-1, stable=True)
    p = logp.softmax(-1).gather(-1, order)
    out = (p.cumsum(-1) < mass) & (score.gather(-1, order).exp() < target)
    # rounding may leave the whole sum a hair below 1
    out[..., -1] = False
    return logp.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)


def _extrapolate(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    if cond.shape != uncond.shape:
        raise BadValue(f"cond and uncond must have one shape, got {tuple(cond.shape)} and {tuple(uncond.shape)}")
    guided = torch.lerp(uncond, cond, _checked(scale))
    # inf - inf is NaN: what one side excludes keeps its value in c
    return torch.where(cond.isinf() | uncond.isinf(), cond, guided)


def _checked(scale: float) -> float:
    if not 0 <= scale < float("inf"):
        raise BadValue(f"scale must be at least 0 and finite (1 is off; additive forms use scale - 1), got {scale}")
    return scale


def _portion(count: torch.Tensor, share: float) -> torch.Tensor:
    """floor(share * count), at least one; the small term keeps 0.29 of 100 at 29."""
    return (share * count.double() + 1e-9).floor().clamp(min=1)
