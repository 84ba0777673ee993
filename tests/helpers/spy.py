"""What tests look at from outside: the whole state of a pipeline, what its scheduler gets, what its blocks evaluate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from emag.testing.outside import changes, denoiser_of, scheduler_of, snapshot

__all__ = ["Counter", "attention_of", "attribute", "blocks_of", "changes", "denoiser_of", "network_outputs",
           "scheduler_steps", "snapshot"]


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
    scheduler = scheduler_of(pipe)
    original = scheduler.step

    def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(model_output.clone())
        return original(model_output, *args, **kwargs)

    with attribute(scheduler, "step", step):
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
