"""What tests look at from outside: the whole state of a pipeline, what its scheduler gets, what its blocks evaluate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
         "_parameters", "_buffers", "_modules", "_backward_hooks")
CALLS = ("scheduler.", "pipe.")


def snapshot(pipe: Any) -> dict[str, Any]:
    """Every module's `__dict__` and hooks, every processor's, the scheduler's and the pipeline's own."""
    state: dict[str, Any] = {"class": type(pipe), "scheduler class": type(pipe.scheduler)}
    state |= {f"pipe.{k}": v for k, v in vars(pipe).items()}
    state |= {f"scheduler.{k}": v for k, v in vars(pipe.scheduler).items()}
    for part, whole in (("transformer", denoiser_of(pipe)), ("vae", pipe.vae)):
        for name, module in whole.named_modules():
            state |= _module(f"{part}.{name}", module)
    return state


def denoiser_of(pipe: Any) -> Any:
    """A pipeline's network."""
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def _module(name: str, module: torch.nn.Module) -> dict[str, Any]:
    state = {f"{name} class": type(module)}
    state |= {f"{name}.{key}": value for key, value in vars(module).items()}
    state |= {f"{name}.{held}[{key}]": v for held in HOOKS for key, v in getattr(module, held).items()}
    processor = getattr(module, "processor", None)
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
def attribute(target: Any, name: str, value: Any) -> Iterator[None]:
    """`target.name` as an instance attribute while the block lasts."""
    target.__dict__[name] = value
    try:
        yield
    finally:
        del target.__dict__[name]


@contextmanager
def scheduler_steps(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """The model outputs that `scheduler.step` gets."""
    seen: list[torch.Tensor] = []
    original = pipe.scheduler.step

    def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(model_output.clone())
        return original(model_output, *args, **kwargs)

    with attribute(pipe.scheduler, "step", step):
        yield seen


@contextmanager
def network_outputs(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """What the network itself returns, weak passes included, in order."""
    seen: list[torch.Tensor] = []
    original = denoiser_of(pipe).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        found = answer[0] if isinstance(answer, tuple) else answer.sample
        seen.append(torch.stack(found).squeeze(2) if isinstance(found, list) else found.clone())
        return answer

    with attribute(denoiser_of(pipe), "forward", forward):
        yield seen


class Counter:
    """Row evaluations of blocks and of their attention modules, by forward hooks of its own."""

    def __init__(self, net: torch.nn.Module, attention: str):
        self.blocks: dict[int, int] = {}
        self.attention: dict[int, int] = {}
        stacks = (*net.transformer_blocks, *getattr(net, "single_transformer_blocks", ()))
        for index, block in enumerate(stacks):
            block.register_forward_hook(self._counting(self.blocks, index), with_kwargs=True)
            getattr(block, attention).register_forward_hook(self._counting(self.attention, index), with_kwargs=True)

    @staticmethod
    def _counting(counts: dict[int, int], index: int) -> Any:
        def hook(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            counts[index] = counts.get(index, 0) + hidden.shape[0]
        return hook


def attention_of(case: str) -> str:
    """Name of the tapped attention module in the blocks of a case."""
    return "attn" if case in ("sd3", "flux", "true-cfg") else "attn1"


def blocks_of(pipe: Any) -> list[torch.nn.Module]:
    net = getattr(pipe.transformer, "_orig_mod", pipe.transformer)
    return [*net.transformer_blocks, *getattr(net, "single_transformer_blocks", ())]
