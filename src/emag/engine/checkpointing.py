"""Activation checkpointing: a pass that keeps the inputs of the network's parts alone, which backward evaluates again.

Which parts, diffusers says: its own switch is turned on for the pass. What a part is evaluated under, the taps of a run too,
is there again when backward comes to it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..errors import Unsupported
from .undo import Undo, patch

SWITCH, FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"
"""Attributes by which modules of diffusers checkpoint their parts: whether, and by what."""
Surroundings = Callable[[], AbstractContextManager[Any]]
Noted = Callable[[torch.nn.Module], None]


def switches(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a network or autoencoder that can checkpoint what is in them."""
    return [part for part in module.modules() if hasattr(part, SWITCH)]


def is_on(module: torch.nn.Module) -> bool:
    """True where the user has turned the switch on, by `enable_gradient_checkpointing()`."""
    return any(getattr(part, SWITCH) for part in switches(module))


def check_can(module: torch.nn.Module) -> None:
    """Raise `Unsupported` where diffusers has no switch."""
    if not switches(module):
        raise Unsupported(f"{type(module).__name__} has no gradient checkpointing in this version of diffusers: leave "
                          "checkpoint out")


def checkpointed(module: torch.nn.Module, undo: Undo, around: Surroundings = nullcontext, note: Noted | None = None) -> None:
    """Turn the switch of every part of `module` on, until `undo` closes.

    around: what is around the evaluations in backward passes, made anew for each. note: told each part as it is evaluated
    again.
    """
    found = switches(module)

    @contextmanager
    def again(part: Any) -> Iterator[None]:
        if note is not None:
            note(part)
        inner = Undo()
        try:
            turn_on(inner)  # parts inside parts are checkpointed there as they were
            with around():
                yield
        finally:
            inner.close()

    def function(part: Any, *args: Any, **kwargs: Any) -> Any:
        part = getattr(part, "__self__", part)  # some give the module, some its call
        return checkpoint(part, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again(part)), **kwargs)

    def turn_on(undo: Undo) -> None:
        for one in found:
            patch(undo, one, SWITCH, True)
            patch(undo, one, FUNCTION, function)

    turn_on(undo)


def each_call(module: torch.nn.Module, undo: Undo, around: Surroundings = nullcontext) -> None:
    """Keep the inputs of each call of `module` alone, until `undo` closes: it is evaluated again as a whole."""
    kept = partial(checkpoint, module.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), around()))
    patch(undo, module, "forward", kept)


def freeze(module: torch.nn.Module, undo: Undo) -> None:
    """Let no gradient reach the weights of `module`, until `undo` closes: so their layers' inputs need not be kept."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and weight.requires_grad and not weight.is_inference():
                undo.callback(_thaw, part, name)
                weight.requires_grad_(False)


def _thaw(part: torch.nn.Module, name: str) -> None:
    weight = part._parameters.get(name)  # offload may have put another in its place
    if weight is not None:
        weight.requires_grad_(True)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """`freeze`, inside."""
    undo = Undo()
    try:
        freeze(module, undo)
        yield
    finally:
        undo.close()
