"""Attention that is computed for one sample at a time, over its valid tokens alone, handed on as one call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from ..maths.attention import Attention
from .seam import NAMES, SDPA, Handler, in_full_precision
from .undo import Scoped, Undo, put_on, undone


class OneByOne(Scoped):
    """Scoped reader of the fused calls of single samples. `answers`, one for each, stand in for theirs."""

    def __init__(self, length: int, answers: torch.Tensor | None = None):
        super().__init__()
        self.length, self.answers = length, answers
        self.calls: list[dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        bound = {**dict(zip(NAMES, args)), **(kwargs or {})}
        if func is not SDPA or self.over or bound["query"].shape[0] != 1 or bound["query"].shape[-2] > self.length:
            return func(*args, **(kwargs or {}))
        self.calls.append(bound)
        if self.answers is None:
            return func(*args, **(kwargs or {}))
        return self.answers[len(self.calls) - 1, None, :, :bound["query"].shape[-2]]


def run_each(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], image: slice, length: int,
        handle: Handler) -> tuple[Any, int]:
    """What an attention module returns where `handle` gives its fused attention, and how many samples' calls it made.

    The module runs twice: its calls are read, and then answered together.
    """
    def under(mode: OneByOne, undo: Undo) -> Any:
        put_on(undo, mode)
        return original(*args, **kwargs)

    # first time: the module answers itself, and its calls are noted. Then all are handled at once, and given back one by one
    read = OneByOne(length)
    out = undone(partial(under, read))
    if not read.calls:
        return out, 0
    answers = in_full_precision(handle, joined(read.calls, image, length), live)
    return undone(partial(under, OneByOne(length, answers))), len(read.calls)


def joined(calls: list[dict[str, Any]], image: slice, length: int) -> Attention:
    """Calls of single samples as one of `length` tokens, padded at the end; the padding is masked."""
    q, k, v = (torch.cat([_padded(call[name], length) for call in calls]) for name in NAMES[:3])
    counts = torch.tensor([call["query"].shape[-2] for call in calls], device=q.device)
    mask = torch.arange(length, device=q.device) < counts.view(-1, 1, 1, 1)
    return Attention(q, k, v, image, mask, calls[0].get("scale"))


def live(call: Attention) -> torch.Tensor:
    """The output of a joined call, each sample computed as it was alone; of a call with another mask, as it is."""
    # each sample without its padding, as the module computed it, or sums would round differently
    counts = _counts(call)
    if counts is None:
        return SDPA(call.q, call.k, call.v, attn_mask=call.mask, scale=call.scale)
    parts = [[x[i:i + 1, :, :count] for x in (call.q, call.k, call.v)] for i, count in enumerate(counts)]
    return torch.cat([_padded(SDPA(*part, scale=call.scale), call.q.shape[-2]) for part in parts])


def _counts(call: Attention) -> list[int] | None:
    """Valid tokens of each sample, where the mask is the padding's."""
    mask, length = call.mask, call.q.shape[-2]
    if mask is None or mask.dtype != torch.bool or mask.shape != (len(call.q), 1, 1, length) or call.k.shape[-2] != length:
        return None
    counts = mask.sum(-1, keepdim=True)
    alike = torch.equal(mask, torch.arange(length, device=mask.device) < counts)
    return counts.flatten().tolist() if alike else None


def _padded(x: torch.Tensor, length: int) -> torch.Tensor:
    return pad(x, (0, 0, 0, length - x.shape[-2]))
