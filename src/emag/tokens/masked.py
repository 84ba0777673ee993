"""Masked diffusion language models: guided logits of all places at once, for loops of one's own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..core import Rule
from ..errors import BadValue, NoEffect, Unsupported
from ..maths.logits import remask
from ..methods.combining.cfg import CFG
from ..methods.null.ag import AG
from ..methods.tokens.mti import MTI
from .predictions import Predictions, predictions


class GuidedMasks:
    """Guided logits of a text with masked places. passes: calls of the model so far; steps: calls of this object."""

    def __init__(self, model: Callable[..., Any], guide: Predictions, mask_token: int, share: float | None):
        self.model, self.mask_token, self.share, self._guide = model, mask_token, share, guide
        self.passes = 0

    @property
    def steps(self) -> int:
        return self._guide.steps

    def reset(self) -> None:
        """The next call begins another text."""
        self._guide.reset()
        self.passes = 0

    def finish(self) -> None:
        """Raise `NoEffect` where a null was read, and was the text itself at every step."""
        if self._guide.evaluated and self.passes == self.steps:
            raise NoEffect("the null was the text itself at every step, so nothing was guided: is the prompt empty, or are "
                           "there too few steps to mask anything again?")

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor, prompt: torch.Tensor, **given: Any) -> torch.Tensor:
        """Guided logits [batch, length, vocabulary], fp32, of tokens [batch, length]; prompt: True where one was given.

        given: further arguments of the model by name, the same for both passes: attention_mask, position_ids.

        Where the null's input is the text itself (nothing is generated yet, or the scale is 1) the model is called once.
        """
        cond = self._logits(tokens, given)
        # the prompt's places are nobody's to fill in
        live = ~prompt.to(tokens.device).expand(tokens.shape)
        return self._guide(cond, lambda: self._uncond(tokens, cond, self._null(tokens, cond, prompt), given), live=live)

    def _null(self, tokens: torch.Tensor, cond: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        if self.share is not None:
            return remask(tokens, cond.softmax(-1), self.mask_token, self.share, prompt)
        return tokens.masked_fill(prompt.to(tokens.device), self.mask_token)

    def _uncond(self, tokens: torch.Tensor, cond: torch.Tensor, null: torch.Tensor,
                given: Mapping[str, Any]) -> torch.Tensor:
        return cond if torch.equal(null, tokens) else self._logits(null, given)

    def _logits(self, tokens: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor:
        self.passes += 1
        out = self.model(tokens, **given)
        return getattr(out, "logits", out).float()


def guide_of(rules: Sequence[Rule], count: int, share: float | None = None) -> Predictions:
    """`rules` on all places of a masked text or image. Raises `BadValue` and `Unsupported` for what does not work there."""
    other = next((rule for rule in rules if not isinstance(rule, CFG | MTI | AG)), None)
    if other is not None or not rules:
        raise Unsupported("masked tokens are guided by CFG or MTI, and by AG(threshold, on=\"logp\") before them, got "
                          f"{getattr(other, 'name', other)!r}")
    if share is not None and any(isinstance(rule, AG) and not rule.neutral for rule in rules):
        raise Unsupported("ag ends a null that agrees, and with share= it is another text at every step, at first nearly "
                          "the prompt's own: leave out ag, or share")
    # CFG works on logits as they are, as the published loops do; what reads the values reads log-probabilities
    return predictions(*rules, space="logits" if all(isinstance(rule, CFG) for rule in rules) else "logp", steps=count)


def masked(model: Callable[..., Any], rule: Rule | Sequence[Rule], mask_token: int, share: float | None = None,
           steps: int = 0) -> GuidedMasks:
    """CFG of a masked diffusion language model: u + w (c - u) on logits as they are, at every place.

    model: tokens [batch, length] -> logits [batch, length, vocabulary], or a model of transformers. rule: CFG; or MTI, which
    guides those places that it is unsure of; or AG(threshold, on="logp") and one of them, (ag, cfg), until the null agrees.
    share: None masks the prompt in the null's input (LLaDA); a number in (0, 1] masks that share of the generated tokens
    again, those it is least sure of, and keeps the prompt (A-CFG, arXiv 2505.20199; its share is unconfirmed). steps: how
    many the loop will make, for schedules. Their additive scales are w - 1. Raises `BadValue` and `Unsupported`.
    """
    rules = (rule,) if isinstance(rule, Rule) else tuple(rule)
    if share is not None and not 0 < share <= 1:
        raise BadValue(f"share must lie in (0, 1], or be None for a masked prompt, got {share}")
    return GuidedMasks(model, guide_of(rules, steps, share), mask_token, share)
