"""A network's answer: one tensor in our form while rules work on it, and what the host gets back.

Ours: rows first, channels next, noise minus data. Networks also give lists of rows, channels elsewhere, data minus noise, or
a learned variance behind the prediction. An answer that nothing changes goes back as the network made it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..families import Backbone

QUOTIENTS = ("div", "divide", "true_divide", "__truediv__")


@dataclass(frozen=True)
class Answer:
    """What a network returned in one call.

    made: in the host's form, a tensor, a tuple or an output object. sample: its tensor in ours, [rows, channels, ...].
    own: which of them are a prediction. Of a sequence, whose tokens are where channels are elsewhere, it is about tokens:
    more are returned where reference images are behind x_t, or a text in front of it.
    """

    made: Any
    sample: torch.Tensor
    own: slice
    backbone: Backbone

    @classmethod
    def of(cls, made: Any, x: torch.Tensor, backbone: Backbone) -> "Answer":
        """The answer to a call with x_t [rows, channels, ...]. A network that learns a variance returns more channels."""
        sample = sample_in(made)
        if backbone.sample in backbone.lists:
            sample = sample[0] if backbone.lone else torch.stack(list(sample)).squeeze(2)
        sample = sample.movedim(backbone.channel_dim, 1)
        sample = -sample if backbone.negated else sample
        # of packed latents [rows, tokens, channels] dimension 1 counts tokens, of others channels
        more = sample.ndim == x.ndim and sample.shape[1] > x.shape[1]
        count, first = x.shape[1], sample.shape[1] - x.shape[1] if backbone.behind else 0
        return cls(made, sample, slice(first, first + count) if more else slice(None), backbone)

    def prediction(self, rows: slice) -> torch.Tensor:
        """The prediction of some rows, fp32."""
        return self.sample[rows, self.own].float()

    def parts(self, count: int) -> "list[Answer]":
        """The answer to a call whose rows were given `count` times over, as that many to look at."""
        return [replace(self, sample=sample) for sample in self.sample.chunk(count)]

    def repeated(self, times: int) -> "Answer":
        """The answer for a host that asked for so many times the rows."""
        return self.with_sample(torch.cat([self.sample] * times))

    def put(self, *new: tuple[slice | None, torch.Tensor | None]) -> "Answer":
        """The answer with predictions, each cast once, in their rows. None for one leaves what is there."""
        changes = [(rows, pred) for rows, pred in new if rows is not None and pred is not None]
        if not changes:
            return self
        sample = self.sample.clone()
        for rows, pred in changes:
            sample[rows, self.own] = pred.to(sample.dtype)
        return self.with_sample(sample)

    def with_sample(self, sample: torch.Tensor) -> "Answer":
        """The same answer with another tensor, given in our form, in it."""
        theirs: Any = (-sample if self.backbone.negated else sample).movedim(1, self.backbone.channel_dim)
        if self.backbone.sample in self.backbone.lists:
            theirs = [theirs] if self.backbone.lone else list(theirs.unsqueeze(2))
        return replace(self, made=_with_sample(self.made, theirs), sample=sample)

    def overwrite(self, new: "Answer") -> None:
        """Put `new` where this answer is, in the host's hands as well."""
        for ours, theirs in zip(sample_in(self.made), sample_in(new.made), strict=True):
            ours.copy_(theirs)

    def for_host(self, is_combined: bool, mark: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
        """What the host gets. is_combined: a rule combines, so whatever the host makes of both branches must be this.
        mark: a further mark on what it is given."""
        sample = sample_in(self.made)
        if not is_combined and mark is None:
            return self.made
        theirs = combined(sample) if is_combined else sample
        if mark is not None:
            theirs = [mark(one) for one in theirs] if isinstance(theirs, list) else mark(theirs)
        return _with_sample(self.made, theirs)


def sample_in(made: Any) -> Any:
    """The tensor in what a network returned, or its list of them: the first of a tuple, an output object's `sample`."""
    if isinstance(made, (torch.Tensor, list)):
        return made
    return made[0] if isinstance(made, tuple) else made.sample


def _with_sample(made: Any, sample: Any) -> Any:
    if isinstance(made, (torch.Tensor, list)):
        return sample
    if isinstance(made, tuple):
        return (sample, *made[1:])
    return type(made)(**{**made, "sample": sample})


class Combined(torch.Tensor):
    """Our result in the hands of a host that still combines: both branches are it, so whatever the host makes of them is it.

    Some hosts give the combined prediction the norm, or the spread, of the conditional one: they multiply by a ratio of two
    equal numbers. That is 1, also where both are 0 (a step that a rule leaves out) or too large for the dtype, where floats
    say NaN. So equal divided by equal is 1 in what a host computes from it alone; what it computes with anything else, x_t
    for one, is an ordinary tensor.
    """

    ours = True

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            # the operation itself on plain tensors; what it gives is marked again, below, where only ours went in
            made = func(*args, **(kwargs or {}))
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            alone = all(isinstance(tensor, Combined) and tensor.ours for tensor in tensors)
            if alone and len(tensors) == 2 and getattr(func, "__name__", "") in QUOTIENTS and not kwargs:
                made = torch.where(args[0] == args[1], 1, made)
            return tree_map_only(torch.Tensor, _marked if alone else plain, made)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return copy.deepcopy(plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain(self).__reduce_ex__(protocol)


def combined(prediction: torch.Tensor | list[torch.Tensor]) -> Any:
    """`prediction`, one tensor [rows, ...] or one for each row, marked as our result; it shares its memory."""
    return [_marked(one) for one in prediction] if isinstance(prediction, list) else _marked(prediction)


def _marked(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(Combined)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without a mark; it shares its memory."""
    return tensor.as_subclass(torch.Tensor)
