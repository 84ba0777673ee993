"""Masked diffusion language models: guided logits of all places at once, for loops of one's own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core import COND, UNCOND, TokenStep, combine
from ..errors import BadValue, Unsupported
from ..maths.logits import remask
from ..maths.streams import Streams
from ..methods.combining.cfg import CFG


class GuidedMasks:
    """Guided logits of a text with masked places. passes: calls of the model so far; steps: calls of this object."""

    def __init__(self, model: Callable[..., Any], rule: CFG, mask_token: int, share: float | None, count: int):
        self.model, self.rule, self.mask_token, self.share, self.count = model, rule, mask_token, share, count
        self.passes = self.steps = 0

    def reset(self) -> None:
        """The next call begins another text."""
        self.passes = self.steps = 0

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor, prompt: torch.Tensor, **given: Any) -> torch.Tensor:
        """Guided logits [batch, length, vocabulary], fp32, of tokens [batch, length]; prompt: True where one was given.

        given: further arguments of the model by name, the same for both passes: attention_mask, position_ids.

        Where the null's input is the text itself (nothing is generated yet, or the scale is 1) the model is called once.
        """
        cond = self._logits(tokens, given)
        step = self._step(tokens, cond)
        self.steps += 1
        if not self.rule.reads_null(step):
            return cond
        null = self._null(tokens, cond, prompt)
        if torch.equal(null, tokens):
            return cond
        return combine((self.rule,), cond, {COND: cond, UNCOND: self._logits(null, given)}, step, ({},))

    def _null(self, tokens: torch.Tensor, cond: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        if self.share is not None:
            return remask(tokens, cond.softmax(-1), self.mask_token, self.share, prompt)
        return tokens.masked_fill(prompt.to(tokens.device), self.mask_token)

    def _logits(self, tokens: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor:
        self.passes += 1
        out = self.model(tokens, **given)
        return getattr(out, "logits", out).float()

    def _step(self, tokens: torch.Tensor, cond: torch.Tensor) -> TokenStep:
        none = (float("nan"),) * max(self.count, self.steps + 1)
        live = torch.ones(len(tokens), dtype=torch.bool, device=cond.device)
        return TokenStep(self.steps, none, none, 1.0, "logits", tokens, Streams.of(tokens), cond=cond, live=live)


def masked(model: Callable[..., Any], rule: CFG, mask_token: int, share: float | None = None,
           steps: int = 0) -> GuidedMasks:
    """CFG of a masked diffusion language model: u + w (c - u) on logits as they are, at every place.

    model: tokens [batch, length] -> logits [batch, length, vocabulary], or a model of transformers. share: None masks the
    prompt in the null's input (LLaDA); a number in (0, 1] masks that share of the generated tokens again, those it is least
    sure of, and keeps the prompt (A-CFG, arXiv 2505.20199; its share is unconfirmed). steps: how many the loop will make,
    for schedules. Their additive scales are w - 1. Raises `BadValue` and `Unsupported`.
    """
    if not isinstance(rule, CFG):
        raise Unsupported(f"masked models are guided by CFG here, got {getattr(rule, 'name', rule)!r}")
    rule.fits_tokens(steps > 0)
    if share is not None and not 0 < share <= 1:
        raise BadValue(f"share must lie in (0, 1], or be None for a masked prompt, got {share}")
    return GuidedMasks(model, rule, mask_token, share, steps)
