"""One call of a network, watched: which blocks were called, with what, and which attention calls each made."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


@dataclass
class Attended:
    """One fused attention call. path: of the module that made it, inside its block."""

    path: str
    query: torch.Tensor
    keys: int

    @property
    def queries(self) -> int:
        return self.query.shape[-2]


@dataclass
class Called:
    """One call of a module. given: its arguments by name; attended: the fused attention calls inside it, in order."""

    path: str
    module: torch.nn.Module
    given: dict[str, Any]
    output: Any = None
    attended: list[Attended] = field(default_factory=list)

    @property
    def outputs(self) -> list[torch.Tensor]:
        found = self.output if isinstance(self.output, tuple) else (self.output,)
        return [one for one in found if isinstance(one, torch.Tensor)]


class _Attention(TorchFunctionMode):
    """Tells `seen` of fused attention calls."""

    def __init__(self, seen: Any):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key = (*args, *(kwargs or {}).values())[:2]
            self.seen(query, key)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(root: torch.nn.Module) -> Iterator[list[Called]]:
    """The calls of all parts of `root`, in the order in which they end, while the block lasts."""
    calls: list[Called] = []
    open_calls: list[Called] = []

    def before(path: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            open_calls.append(Called(path, module, by_name(module, args, kwargs)))
        return hook

    def after(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        open_calls[-1].output = output
        calls.append(open_calls.pop())

    def attended(query: torch.Tensor, key: torch.Tensor) -> None:
        inner = open_calls[-1].path
        for call in open_calls:
            path = inner.removeprefix(call.path).removeprefix(".")
            call.attended.append(Attended(path, query.detach().clone(), key.shape[-2]))

    with ExitStack() as stack:
        for path, module in root.named_modules():
            for handle in (module.register_forward_pre_hook(before(path), with_kwargs=True),
                           module.register_forward_hook(after, with_kwargs=True)):
                stack.callback(handle.remove)
        stack.enter_context(_Attention(attended))
        yield calls


def by_name(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a module's forward by name; those it collects stay by number."""
    try:
        found = dict(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments)
    except TypeError:
        return {**{str(at): value for at, value in enumerate(args)}, **kwargs}
    found.pop("self", None)
    return found
