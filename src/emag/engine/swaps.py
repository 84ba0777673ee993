"""Changes of a network for one evaluation, undone after it: LoRA scales, time embedders' outputs; a look at its head."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import NoEffect, Unsupported
from .answer import Answer
from .arguments import Arguments
from .network import Network
from .undo import Undo, patch


def scale_lora(module: torch.nn.Module, factor: float, undo: Undo) -> None:
    """Multiply the scales of all LoRA adapters in `module` by `factor`, until `undo` closes."""
    for layer in lora_layers(module):
        before = dict(layer.scaling)
        # the way back is written down before the change: an interrupt may come between the two
        undo.callback(layer.scaling.update, before)
        layer.scaling.update({name: value * factor for name, value in before.items()})


def lora_layers(module: torch.nn.Module) -> list[Any]:
    """The LoRA layers in `module`. Raises `Unsupported` where there are none, or where their scale does nothing."""
    layers: list[Any] = [part for part in module.modules() if isinstance(getattr(part, "scaling", None), dict)]
    if any(getattr(layer, "merged", False) or getattr(layer, "disable_adapters", False) for layer in layers):
        raise Unsupported("the LoRA is merged into the weights, or switched off, so its scale does nothing: unmerge it, by "
                          "pipe.unfuse_lora(), or switch it on")
    if not layers:
        raise Unsupported(f"this {type(module).__name__} has no LoRA adapter whose scale could be changed: load one first, "
                          "by pipe.load_lora_weights(...)")
    return layers


class Times:
    """A network's time embedders; `change` (name, value) -> value stands behind them while it is set."""

    def __init__(self) -> None:
        self.change: Callable[[str, torch.Tensor], torch.Tensor] | None = None

    def install(self, network: Network, undo: Undo) -> None:
        """Put it in, until `undo` closes."""
        modules = network.time_modules()
        if not modules:
            raise Unsupported(f"where {network.backbone.name} embeds the timestep is not known")
        for at, module in enumerate(modules):
            patch(undo, module, "forward", self._behind(f"time{at}", module.forward))

    def _behind(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @torch.compiler.disable
        def forward(*args: Any, **kwargs: Any) -> Any:
            out = original(*args, **kwargs)
            return out if self.change is None else self.change(name, out)

        return forward


class EarlyHead:
    """What a network's intermediate head gave in the latest pass; None where it was not reached."""

    def __init__(self) -> None:
        self.made: Any = None

    def install(self, network: Network, undo: Undo) -> None:
        """Look at it, until `undo` closes."""
        head = network.early_head
        if head is None:
            raise Unsupported(f"this {network.backbone.name} has no intermediate head {network.backbone.early_head!r}")
        patch(undo, head, "forward", self._noted(head.forward))

    def prediction(self, call: Arguments) -> torch.Tensor:
        """What it gave in a pass with the arguments `call`, all rows, fp32. Raises `NoEffect` where it was not reached."""
        made, self.made = self.made, None
        if made is None:
            raise NoEffect(f"the intermediate head of {call.network.backbone.name} was not reached in a pass")
        return Answer.of(made, call.network.latents(call.sample), call.network.backbone).prediction(slice(None))

    def _noted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @torch.compiler.disable
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.made = original(*args, **kwargs)
            return self.made

        return forward
