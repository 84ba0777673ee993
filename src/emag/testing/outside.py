"""A pipeline looked at from outside: its whole state before and after, and what its blocks evaluate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..engine.arguments import Arguments
from ..engine.block import Block
from ..engine.reading import read_network

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
         "_parameters", "_buffers", "_modules", "_backward_hooks")
CALLS = ("scheduler.", "pipe.")
DENOISERS, AUTOENCODERS = ("unet", "transformer", "decoder"), ("vae", "movq", "vqvae")


def denoiser_of(pipe: Any) -> Any:
    """A pipeline's network."""
    return next(found for name in DENOISERS if (found := getattr(pipe, name, None)) is not None)


def scheduler_of(pipe: Any) -> Any:
    """The scheduler of that."""
    return pipe.scheduler if hasattr(pipe, "scheduler") else pipe.decoder_scheduler


def _autoencoder(pipe: Any) -> Any:
    return next((found for name in AUTOENCODERS if (found := getattr(pipe, name, None)) is not None), None)


def snapshot(pipe: Any) -> dict[str, Any]:
    """Every module's `__dict__` and hooks, every processor's, the scheduler's and the pipeline's own."""
    state: dict[str, Any] = {"class": type(pipe), "scheduler class": type(scheduler_of(pipe))}
    state |= {f"pipe.{k}": v for k, v in vars(pipe).items()}
    state |= {f"scheduler.{k}": v for k, v in vars(scheduler_of(pipe)).items()}
    for part, whole in (("transformer", denoiser_of(pipe)), ("vae", _autoencoder(pipe))):
        for name, module in whole.named_modules() if whole is not None else ():
            state |= _module(f"{part}.{name}", module)
    return state


def _module(name: str, module: torch.nn.Module) -> dict[str, Any]:
    state = {f"{name} class": type(module)}
    state |= {f"{name}.{key}": value for key, value in vars(module).items()}
    state |= {f"{name}.{held}[{key}]": v for held in HOOKS for key, v in getattr(module, held).items()}
    processor: Any = getattr(module, "processor", None)
    if processor is not None:
        state |= {f"{name}.processor.{key}": value for key, value in vars(processor).items()}
    return state


def changes(before: dict[str, Any], after: dict[str, Any], own: bool = True) -> list[str]:
    """Names of what differs: objects by identity, except the plain values that every call of a pipeline sets anew.

    `own` False leaves out the values that a scheduler and a pipeline keep from their latest call.
    """
    gone = sorted(before.keys() ^ after.keys())
    kept = [key for key in before.keys() & after.keys() if own or not key.startswith(CALLS)]
    return gone + [key for key in kept if not _same(key, before[key], after[key])]


def _same(key: str, before: Any, after: Any) -> bool:
    if before is after:
        return True
    if not key.startswith(CALLS):
        return isinstance(before, (int, float, str)) and before == after
    if isinstance(before, torch.Tensor):
        return isinstance(after, torch.Tensor) and torch.equal(before, after)
    if isinstance(before, list):
        return len(before) == len(after) and all(_same(key, a, b) for a, b in zip(before, after))
    return type(before) is type(after) and not isinstance(before, torch.nn.Module) and bool(before == after)


@contextmanager
def counted(pipe: Any) -> Iterator[Callable[[], int]]:
    """Rows that the blocks of a pipeline's network evaluate while the block lasts, by forward hooks of their own."""
    rows: list[int] = []
    network, frames = read_network(denoiser_of(pipe)), [1]

    def counting(block: Block) -> Any:
        def count(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            rows.append(len(next(iter(block.streams(args, kwargs).values()))) // frames[0])

        return count

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if network.backbone.framed:
            frames[0] = Arguments.bind(network, args, kwargs).sample.shape[2]

    handles = [block.module.register_forward_hook(counting(block), with_kwargs=True) for block in network.blocks]
    handles.append(network.module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield lambda: sum(rows)
    finally:
        for handle in handles:
            handle.remove()
