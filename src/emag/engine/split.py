"""Attention whose heads are spread over processes (Ulysses): each sees all tokens of its heads, process by process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed

from ..core import Perturbation
from ..maths.attention import Attention
from .block import Block
from .network import Network
from .seam import Handler, Live

KIND = "diffusers.hooks.context_parallel"


@dataclass(frozen=True)
class SplitTokens:
    """A network whose tokens are split over processes between its attention calls. config: how, of diffusers."""

    config: Any

    @property
    def parts(self) -> int:
        """How many processes."""
        return int(self.config.ulysses_degree)

    def lengths(self, block: Block, streams: dict[str, Any], image: int) -> tuple[int, ...]:
        """Tokens of one process in the attention of a block, by the kinds of its stack. image: those of all processes."""
        # the block in which they are split is given all of them
        share = self.parts if any(_hooks(block.module)) else 1
        first = block.length(streams) // share
        if len(block.stack.tokens) == 1:
            return (first,)
        own = {"image": image // self.parts} if block.merged else {"image": first}
        own["text"] = first - own["image"] if block.merged else streams[block.stack.streams[1]].shape[1] // share
        return tuple(own[kind] for kind in block.stack.tokens)

    def image(self, block: Block, lengths: tuple[int, ...]) -> tuple[slice, int]:
        """Where the image tokens of all processes are once tokens of a kind stand together, and how many there are."""
        at = block.stack.tokens.index("image")
        start = self.parts * sum(lengths[:at])
        return slice(start, start + self.parts * lengths[at]), self.parts * sum(lengths)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over the processes of `x`, which each has of its own heads. All of them have as many."""
        total = x.clone()
        torch.distributed.all_reduce(total, group=self.config._ulysses_mesh.get_group())
        return total / self.parts

    def opened(self, x: torch.Tensor, lengths: tuple[int, ...], dim: int = 2) -> torch.Tensor:
        """Tokens along `dim`, [text, image] of each process in turn, as all text, then all of the image."""
        kinds = x.unflatten(dim, (self.parts, sum(lengths))).split(lengths, dim + 1)
        return torch.cat([kind.flatten(dim, dim + 1) for kind in kinds], dim)

    def closed(self, x: torch.Tensor, lengths: tuple[int, ...], dim: int = 2) -> torch.Tensor:
        """The inverse of `opened`."""
        kinds = x.split([self.parts * length for length in lengths], dim)
        own = [kind.unflatten(dim, (self.parts, length)) for kind, length in zip(kinds, lengths)]
        return torch.cat(own, dim + 1).flatten(dim, dim + 1)

    def around(self, handle: Handler, lengths: tuple[int, ...]) -> Handler:
        """`handle`, given calls in which tokens of a kind stand together, and means over all heads."""
        def handler(call: Attention, live: Live) -> torch.Tensor:
            # attention does not mind the order of its tokens, as long as the mask has the same
            wide = call.mask is not None and call.mask.shape[-1] > 1
            mask = self.opened(call.mask, lengths, 3) if wide and call.mask is not None else call.mask
            q, k, v = (self.opened(x, lengths) for x in (call.q, call.k, call.v))
            view = replace(call, q=q, k=k, v=v, mask=mask, over_processes=self.mean)

            def computed(part: Attention) -> torch.Tensor:
                if part is view:  # untouched: the very call of the network, bit for bit
                    return self.opened(live(call), lengths)
                return live(part)

            return self.closed(handle(view, computed), lengths)

        return handler


def split_of(network: Network) -> SplitTokens | None:
    """How the tokens of a network are split over processes; None where they are not."""
    config = next((config for module in network.module.modules() for config in _hooks(module)), None)
    return None if config is None else SplitTokens(config)


def unsplit(network: Network, branches: Sequence[Perturbation]) -> str:
    """Why branches cannot be evaluated where the tokens of a network are split over processes; "" where they can."""
    configs = [config for module in network.module.modules() for config in _hooks(module)]
    if any(config.ring_degree > 1 or config.ulysses_anything for config in configs):
        return "ring attention shows a process part of the keys at a time, and uneven parts have no order that is known"
    if not all(branch.by_head for branch in branches):
        return ("each process sees some heads alone, and this needs all of them: take emag variant='query' without jitter, "
                "or pag")
    backbone = network.backbone
    unusual = any(stack.padded or stack.keys or stack.each_sample or stack.spatial for stack in backbone.stacks)
    if branches and (unusual or backbone.packed or backbone.framed or backbone.lists or network.slot is not None):
        return f"where the image tokens of {backbone.name} are among those of all processes is not known"
    return ""


def _hooks(module: torch.nn.Module) -> Iterator[Any]:
    """The settings of the hooks that split, or gather, what a module is given."""
    registry = getattr(module, "_diffusers_hook", None)
    for hook in registry.hooks.values() if registry is not None else ():
        if type(hook).__module__ == KIND:
            yield hook.parallel_config
