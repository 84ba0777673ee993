"""Our result in the hands of a host that still combines: both branches are it, so whatever the host makes of them is it.

Some hosts give the combined prediction the norm, or the spread, of the conditional one: they multiply by a ratio of two
equal numbers. That is 1, also where both are 0 (a step that a rule leaves out) or too large for the dtype, where floats say
NaN.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

QUOTIENTS = ("div", "divide", "true_divide", "__truediv__")


class Combined(torch.Tensor):
    """A combined prediction, and what a host computes from it alone. Equal divided by equal is 1 here. What it is computed
    with anything else, x_t for one, is an ordinary tensor."""

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            alone = all(isinstance(tensor, Combined) for tensor in tensors)
            if alone and len(tensors) == 2 and getattr(func, "__name__", "") in QUOTIENTS and not kwargs:
                made = torch.where(args[0] == args[1], 1, made)
            return tree_map_only(torch.Tensor, _marked if alone else _plain, made)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return copy.deepcopy(_plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)


def combined(prediction: torch.Tensor | list[torch.Tensor]) -> Any:
    """`prediction`, one tensor or one for each row, marked as our result; it shares its memory."""
    return [_marked(one) for one in prediction] if isinstance(prediction, list) else _marked(prediction)


def _marked(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(Combined)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)
