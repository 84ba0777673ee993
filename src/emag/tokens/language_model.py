"""A scorer made of a second language model: how likely each next token is to it."""

from typing import Any

import torch

from ..errors import BadValue


class LanguageModel:
    """Guided captioning's q, arXiv 2307.16686: log q(token | text) of a language model that sees no image.

    It must have the vocabulary of the guided model. Texts are read anew at every token, without a cache.

    start: token ids that it reads before each text, [length], at least one. prompt: tokens at the start of a text that are
    not for it. newline, end: what it gives to the token `newline` is given to `end`, as in the paper: a caption ends with
    its line.
    """

    def __init__(self, model: Any, start: torch.Tensor, prompt: int = 0, newline: int | None = None, end: int | None = None):
        if start.ndim != 1 or not len(start):
            raise BadValue(f"start must be token ids [length], at least one, got shape {tuple(start.shape)}")
        if (newline is None) != (end is None) or (newline is not None and newline == end):
            raise BadValue(f"newline and end are two tokens, given together or not at all; got {newline} and {end}")
        self.model, self.start, self.prompt, self.newline, self.end = model, start, prompt, newline, end

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """log q of each candidate [rows, n] after texts as token ids [rows, length], [rows, n]. Raises `BadValue`."""
        text = ids[:, self.prompt:].to(self.model.device)
        whole = torch.cat([self.start.to(text.device).expand(len(text), -1), text], dim=1)
        logp = self._ended(self.model(input_ids=whole).logits[:, -1].float().log_softmax(-1))
        if logp.shape[-1] <= int(candidates.max()):
            raise BadValue(f"the language model knows {logp.shape[-1]} tokens, fewer than the guided model: both must have "
                           "one vocabulary")
        return logp.to(candidates.device).gather(1, candidates)

    def _ended(self, logp: torch.Tensor) -> torch.Tensor:
        if self.newline is None or self.end is None:
            return logp
        moved = logp.clone()
        moved[:, self.end] = torch.logaddexp(logp[:, self.end], logp[:, self.newline])
        moved[:, self.newline] = -torch.inf
        return moved
