"""Attention modules as a whole, with what works in every pass around them: fewer tokens inside, or no evaluation at all."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..errors import Unsupported
from .block import Block
from .network import Network
from .taps import Tap

RunModule = Callable[[torch.Tensor], Any]
Around = Callable[[torch.Tensor, RunModule], Any]
"""(tokens, run) -> what the module returns; `run` evaluates it for such tokens."""

PER_TOKEN = ("attention_mask", "image_rotary_emb", "rotary_emb")
"""Arguments of attention modules that hold something for each token."""


class Attending:
    """Wrappers for the attention modules `taps`. handlers: what to do around each in the current pass."""

    def __init__(self, network: Network, taps: Iterable[Tap]):
        self.network = network
        self.handlers: dict[Tap, Around] = {}
        blocks = {at for at, _ in taps}
        if blocks and network.slot is not None:
            raise Unsupported(f"what works around the attention of {network.backbone.name} as a whole needs its attention "
                              "modules, which this host does not show: use emag.guide around a diffusers pipeline")
        bare = [at for at in sorted(blocks) if network.blocks[at].bare]
        if bare:
            raise Unsupported(f"blocks {bare} of {network.backbone.name} are attention modules with norm and input inside, "
                              "and this works around an attention alone: name other layers")
        apart = [at for at in sorted(blocks) if network.blocks[at].stack.keys]
        if apart:
            raise Unsupported(f"the attention of blocks {apart} of {network.backbone.name} is given its keys beside its "
                              "tokens, and this changes the tokens alone: leave it out")
        if blocks and network.backbone.framed:
            raise Unsupported(f"the rows of {network.backbone.name} are frames, several for each sample, and this works "
                              "around attention modules with a row for each: leave it out")
        self.wrappers = [self._wrap(network.blocks[at], cross) for at, cross in sorted(taps)]

    def _wrap(self, block: Block, cross: bool) -> tuple[torch.nn.Module, str, Any, Any]:
        module, around = block.cross if cross else block.attention, self._around
        assert module is not None, "a rule looks whether there is one"
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return around((block.index, cross), original, args, kwargs)

        return module, "forward", original, forward

    @torch.compiler.disable
    def _around(self, tap: Tap, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self.handlers.get(tap)
        if handler is None:
            return original(*args, **kwargs)
        named = "hidden_states" in kwargs
        tokens = kwargs["hidden_states"] if named else args[0]

        def run(given: torch.Tensor) -> Any:
            if given.shape != tokens.shape:
                _check_alike(tap, kwargs)
            if named:
                return original(*args, **{**kwargs, "hidden_states": given})
            return original(given, *args[1:], **kwargs)

        return handler(tokens, run)


def _check_alike(tap: Tap, kwargs: dict[str, Any]) -> None:
    """Refuse other tokens than the block's own where something else is given for each."""
    block, cross = tap
    found = next((name for name in PER_TOKEN if kwargs.get(name) is not None), None)
    if cross and found == "attention_mask" and _one_for_all_queries(kwargs[found]):
        return
    if found:
        raise Unsupported(f"the {'cross-' * cross}attention of block {block} is given {found}, which has a value for each "
                          "token: there tokens cannot be merged")


def _one_for_all_queries(mask: torch.Tensor) -> bool:
    """True for a mask of keys, [batch, keys] or [batch, (heads,) 1, keys]: it does not know how many queries there are."""
    return mask.ndim < 3 or mask.shape[-2] == 1
