"""A model that follows the tokens of a run under another context, with a cache of its own."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..errors import Unsupported
from .codecs import TokenShape
from .context import Context
from .reading import asked_last, check_places, last_logits


class Follower:
    """Logits of the next token under a context, for whatever tokens it is asked about.

    What it answers depends on the context and the generated tokens alone. The cache only spares work: it is kept as far as
    the tokens are those of the last time, its rows put in a new order where beams were, and cut where drafted tokens were
    refused. passes, tokens: calls of the model so far, and tokens a row in them. read: what is taken from a pass.
    """

    def __init__(self, model: Any, context: Context, shape: TokenShape | None = None,
                 read: Callable[[Any], torch.Tensor] | None = None):
        self.passes = self.tokens = 0
        self._model, self._context, self._shape = model, context, shape or (lambda ids: ids)
        self._read = read or last_logits
        self._known = set(inspect.signature(model.forward).parameters)
        self._cache: Any = None
        self._fed: torch.Tensor | None = None
        self._latest = torch.empty(0)
        self._past: WeightedValues | None = None
        if "past_key_values" not in self._known:
            raise Unsupported(f"{type(model).__name__} keeps no keys and values that a second branch could have of its own: "
                              "transformers and encoder-decoders do")
        check_places(model)

    @torch.no_grad()
    def logits(self, generated: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the next token, [rows, vocabulary], fp32, after `generated`, [rows, length]; or what `read` takes.

        weights: [rows, length], by which the values of the generated tokens count in the attention; None is 1.
        """
        context = self._context
        whole = torch.cat([context.ids, generated.to(context.ids.device)], dim=1)
        if self._fed is not None and weights is None and torch.equal(self._fed, whole):
            return self._latest
        kept = self._line_up(whole)
        if weights is not None:
            self._soften(weights)
        out = self._model(**self._arguments(whole, kept))
        self.passes, self.tokens = self.passes + 1, self.tokens + whole.shape[1] - kept
        self._cache, self._fed = out.past_key_values, whole
        self._latest = self._read(out)
        return self._latest

    def _arguments(self, whole: torch.Tensor, kept: int) -> dict[str, Any]:
        context, feed = self._context, self._shape(whole)[:, kept:].contiguous()
        given: dict[str, Any] = {**context.always, **(context.first if kept == 0 else {}), "use_cache": True,
                                 "past_key_values": self._cache, "return_dict": True}
        if self._model.config.is_encoder_decoder:
            return {**given, "decoder_input_ids": feed}
        grown = whole.shape[1] - context.mask.shape[1]
        mask = torch.nn.functional.pad(context.mask, (0, grown), value=1)
        return {**given, "input_ids": feed, **asked_last(mask, mask.shape[1] - kept, self._known)}

    def _line_up(self, whole: torch.Tensor) -> int:
        """How many tokens of `whole` the cache holds, its rows in order and cut to them; at least one is left to feed."""
        if self._fed is None or self._cache is None:
            return self._forget()
        parents, common = aligned(self._fed, whole, self._context.times)
        kept = min(common, whole.shape[1] - 1)
        drop = self._fed.shape[1] - kept
        if kept <= 0 or (drop and not _croppable(self._cache)):
            return self._forget()
        if drop:
            self._cache.crop(-drop)
        if parents is not None:
            self._cache.reorder_cache(parents)
        return kept

    def _forget(self) -> int:
        self._cache = self._past = None
        return 0

    def _soften(self, weights: torch.Tensor) -> None:
        if self._cache is None:
            if weights.shape[1]:
                raise Unsupported("softened values need a cache that is kept from token to token")
            return
        if self._past is None:
            self._past = WeightedValues(self._cache)
        ones = torch.ones_like(self._context.mask, dtype=weights.dtype)
        self._past.weights = torch.cat([ones, weights.to(ones.device)], dim=1)


class WeightedValues:
    """A cache that hands out its values weighted, and keeps them as they are."""

    def __init__(self, cache: Any):
        self.weights = torch.empty(0)
        self._update = cache.update
        cache.update = self._weighted

    def _weighted(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._update(*args, **kwargs)
        return keys, values * self.weights[:, None, :, None].to(values.dtype)


def aligned(fed: torch.Tensor, whole: torch.Tensor, beams: int) -> tuple[torch.Tensor | None, int]:
    """Which row of `fed` each row of `whole` goes on from, None where all go on from their own; and for how many tokens.

    fed, whole: tokens, [rows, length] each. beams: rows of one sample, side by side: rows go on from those of their sample.
    """
    size = min(fed.shape[1], whole.shape[1])
    before, now = fed[:, :size], whole[:, :size]
    if torch.equal(before, now):
        return None, size
    before, now = before.view(-1, beams, size), now.view(-1, beams, size)
    # tokens from the start on that two rows share: [samples, beams now, beams before]
    shared = (now[:, :, None] == before[:, None]).long().cumprod(-1).sum(-1)
    best = shared.max(-1)
    first = torch.arange(len(shared), device=fed.device)[:, None] * beams
    return (best.indices + first).flatten(), int(best.values.min())


def _croppable(cache: Any) -> bool:
    # a layer with a sliding window has dropped what a cut would bring back
    return bool(getattr(cache, "is_croppable", False)) and not any(getattr(cache, "is_sliding", ()))
