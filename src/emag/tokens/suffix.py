"""A null that is the text so far with a short suffix, read from the prompt's own cache: MTI, arXiv 2510.13940."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from ..engine.undo import Undo
from ..errors import BadValue, Unsupported
from .reading import asked_last, check_places, last_logits


@dataclass(frozen=True, eq=False)
class Suffix:
    """What `suffix` makes: a text, or token ids [length]."""

    words: str | torch.Tensor

    def ids(self, tokenizer: Any) -> torch.Tensor:
        """Its tokens, [length], without those that begin or end a text. Raises `BadValue`."""
        if isinstance(self.words, torch.Tensor):
            return self.words
        if tokenizer is None:
            raise BadValue("suffix is a text, which needs a tokenizer: give tokenizer=..., or token ids")
        found = torch.tensor(tokenizer(self.words, add_special_tokens=False)["input_ids"], dtype=torch.long)
        if not len(found):
            raise BadValue(f"the suffix {self.words!r} has no tokens in this model's words")
        return found


def suffix(words: str | torch.Tensor) -> Suffix:
    """A null that reads the text so far and then `words`, a text or token ids [length]: MTI's, arXiv 2510.13940.

        with emag.tokens.guide(model, emag.tokens.MTI(1.5, threshold=1.0), null=emag.tokens.suffix("OUTPUT ERROR"), ...):

    Its pass is over the suffix alone: all else is read from the cache that the prompt's own branch keeps, which stays as it
    is. "OUTPUT ERROR" in the authors' code. For decoder-only models in `emag.tokens.guide`. Raises `BadValue`.
    """
    fits = words.ndim == 1 if isinstance(words, torch.Tensor) else isinstance(words, str)
    if not fits or not len(words):
        raise BadValue(f"a suffix is a text or token ids [length], at least one token, got {words!r}")
    return Suffix(words)


class Watched:
    """The latest pass of a model that was not one of ours, while `undo` is open: its arguments and its cache."""

    def __init__(self, model: Any, undo: Undo):
        self._ours = False
        self.call: dict[str, Any] = {}
        self.cache: Any = None
        undo.callback(model.register_forward_hook(self._note, with_kwargs=True).remove)

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Passes inside are ours, and are not noted."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _note(self, model: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if not self._ours:
            self.call, self.cache = kwargs, getattr(out, "past_key_values", None)


class SuffixReader:
    """Logits of the next token after the text so far and a suffix, by the cache of the prompt's own branch.

    start: tokens of the prompt. read: what is taken from a pass. passes, tokens: of the model so far, and a row in them.
    """

    def __init__(self, model: Any, ids: torch.Tensor, start: int, watched: Watched,
                 read: Callable[[Any], torch.Tensor] | None = None):
        self.passes = self.tokens = 0
        self._model, self._ids, self._start, self._watched = model, ids.to(model.device), start, watched
        self._read = read or last_logits
        self._known = set(inspect.signature(model.forward).parameters)

    @torch.no_grad()
    def logits(self, generated: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """[rows, vocabulary], fp32, after the prompt, `generated` [rows, length] and the suffix; or what `read` takes."""
        rows, length = len(generated), self._start + generated.shape[1]
        out = self._model(**self._arguments(rows, length))
        self.passes, self.tokens = self.passes + 1, self.tokens + len(self._ids)
        return self._read(out)

    def _arguments(self, rows: int, length: int) -> dict[str, Any]:
        mask = self._watched.call.get("attention_mask")
        if mask is None:
            mask = torch.ones(rows, length, dtype=torch.long, device=self._ids.device)
        mask = torch.nn.functional.pad(mask[:, :length], (0, len(self._ids)), value=1)
        return {"input_ids": self._ids.expand(rows, -1), "use_cache": True, "return_dict": True,
                "past_key_values": part_of(self._watched.cache, length), **asked_last(mask, len(self._ids), self._known)}


def part_of(cache: Any, length: int) -> Any:
    """The first `length` tokens of a cache, as one that may grow: `cache` itself stays as it is.

    Growing makes new tensors, so that nothing is copied beforehand. Raises `Unsupported` where a cache grows in place, or
    has dropped tokens.
    """
    layers = getattr(cache, "layers", None)
    if not layers or any(type(layer) is not DynamicLayer for layer in layers) or cache.get_seq_length() < length:
        found = "none" if cache is None else ", ".join(sorted({type(layer).__name__ for layer in layers or ()}))
        raise Unsupported("a suffix is read from the cache of the prompt's own branch, which must be a dynamic one of the "
                          f"whole text, got {found or type(cache).__name__}: leave out cache settings, or give null=ids")
    made = copy.copy(cache)
    made.layers = [_cut(layer, length) for layer in layers]
    return made


def _cut(layer: Any, length: int) -> Any:
    made = copy.copy(layer)
    made.keys, made.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    return made


def check_suffix(model: Any) -> None:
    """Raise `Unsupported` where the prompt's own cache is not that of the whole text."""
    if model.config.is_encoder_decoder:
        raise Unsupported(f"a suffix goes on with the text of the prompt, which an encoder reads in {type(model).__name__}: "
                          "say null='a text' or ids")
    check_places(model)
