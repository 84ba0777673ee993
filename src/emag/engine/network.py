"""A network and its table entry: its blocks in order, and what a call says of images, grids and references."""

import inspect
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import BadValue, Unsupported
from ..families import Backbone
from .block import Block
from .slot import Slot


@dataclass(frozen=True)
class Network:
    """A denoiser read through its table entry. `module` is the plain module, also where a compiled one wraps it.

    references: of a run's calls, tokens of reference images behind those of the image in the making. compiled: its forward
    as a whole runs in compiled code. slot: where its host hands us the attention calls of a block, whatever computes them;
    None where they are calls of `scaled_dot_product_attention` inside an attention module.
    """

    module: torch.nn.Module
    backbone: Backbone
    blocks: tuple[Block, ...]
    signature: inspect.Signature
    references: int = 0
    compiled: bool = False
    slot: Slot | None = None

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def middle(self) -> tuple[int, ...]:
        """The blocks at the bottom of a network that narrows and widens again; of another network none."""
        return tuple(block.index for block in self.blocks if block.stack.middle)

    @property
    def placed(self) -> bool:
        """True where its blocks, or what lies between them, see where tokens are."""
        placed = self.backbone.placed
        return placed if isinstance(placed, bool) else bool(getattr(self._config, placed, True))

    @property
    def _config(self) -> Any:
        """The network's configuration; of a module that has none, what its entry says."""
        return getattr(self.module, "config", None) or SimpleNamespace(patch_size=self.backbone.patch)

    @property
    def _learns_variance(self) -> bool:
        kinds = getattr(self._config, "down_block_types", ()) if self.backbone.variance else ()
        return any(fnmatchcase(kind, self.backbone.variance) for kind in kinds)

    @property
    def patch(self) -> Any:
        """Sides of a patch of x_t, one for all or one each; 1 where x_t is in patches already."""
        config = self._config
        found = getattr(config, "patch_size", None) or getattr(config, "latent_patch_size", None)
        return found or getattr(config, "all_patch_size", (1,))[0]

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Raise `BadValue` where a block does not exist."""
        wrong = [layer for layer in layers if not 0 <= layer < self.depth]
        if wrong:
            raise BadValue(f"layers {wrong} do not exist: {self.backbone.name} here has blocks 0 to {self.depth - 1}")

    def check_text(self, layers: tuple[int, ...]) -> None:
        """Raise `Unsupported` where the attention of a block to the image holds no text."""
        without = [layer for layer in layers if not self.blocks[layer].has_text(cross=False)]
        if without:
            raise Unsupported(f"blocks {without} of {self.backbone.name} have no text in their attention, and these "
                              "settings are about its part: use variant='map' or 'query', and no text_scale")

    def grid(self, values: dict[str, Any]) -> tuple[int, ...] | None:
        """([frames,] rows, columns, patch) where x_t is a sequence of patches; None where it has spatial dimensions."""
        if self.backbone.sound:
            return (1, values[self.backbone.sample].shape[1], 1)
        sizes: list[Any] = [values.get(name) for name in self.backbone.grid_sizes]
        if sizes and None not in sizes:
            return (*sizes, self.backbone.patch)
        coords = values.get(self.backbone.grid_coords or "")
        if coords is not None:
            return (*self._filled(coords[0].T, str(self.backbone.grid_coords)), self.backbone.patch)
        ids = values.get(self.backbone.grid_ids or "")
        if ids is None:
            return None
        return (*self._extent(ids, values), self.backbone.patch)

    def _extent(self, ids: Any, values: dict[str, Any]) -> tuple[int, ...]:
        """([layers,] rows, columns), from the positions of the image tokens, or from the sizes of the images.

        A grid may begin anywhere and have any pitch. Raises `Unsupported` for positions that do not fill one.
        """
        if not isinstance(ids, torch.Tensor):
            own, _ = self._sizes(ids)
            return (len(own),) * (len(own) > 1) + tuple(own[0][i] for i in self.backbone.grid_at)
        tokens = values[self.backbone.sample].shape[1]  # of a text's and the image's positions, the last ones
        places = _first(ids)[-tokens:][:tokens - self.references, list(self.backbone.grid_at)]
        return self._filled(places, str(self.backbone.grid_ids))

    def _filled(self, places: torch.Tensor, name: str) -> tuple[int, ...]:
        """Sides of the grid that positions [tokens, axes] fill."""
        # distinct positions along each axis, whatever they begin with: with no gaps, their product is the number of tokens
        sides = tuple(len(set(along)) for along in zip(*places.tolist()))
        if prod(sides) != len(places):
            raise Unsupported(f"the {len(places)} image tokens of this {self.backbone.name} do not fill a grid of "
                              f"{' x '.join(map(str, sides))} positions ({name}): emag cannot tell rows from columns")
        return sides

    def _sizes(self, ids: Any) -> tuple[list[Any], list[Any]]:
        """Sizes of the images in the making and of the references, of the first row."""
        sizes = ids[0] if isinstance(ids[0], list) else ids[:1]
        layered = self.backbone.layered and getattr(self._config, self.backbone.layered, False)
        own = len(sizes) - 1 if layered else 1
        return sizes[:own], sizes[own:]

    def references_in(self, values: dict[str, Any]) -> int:
        """Tokens of reference images in a call with these arguments."""
        if not self.backbone.references:
            return 0
        if self.backbone.grid_sizes:  # what is more than the grid has
            return values[self.backbone.sample].shape[1] - prod(values[name] for name in self.backbone.grid_sizes)
        ids = values.get(self.backbone.grid_ids or "")
        if ids is None:
            return 0
        if not isinstance(ids, torch.Tensor):
            return sum(map(prod, self._sizes(ids)[1]))
        image = _first(ids)[:, 0]
        return int((image != image[0]).sum())

    def tokens(self, values: dict[str, Any]) -> tuple[int, ...]:
        """Image tokens of a call along each dimension of its x_t: ([frames,] rows, columns)."""
        if self.backbone.sound:
            return (1, -(-values[self.backbone.sample].shape[1] // self.patch))  # the last patch may be filled up
        packed = self.grid(values)
        if packed is not None:
            return packed[:-1]
        sizes, config = values[self.backbone.sample].shape[2:], self._config
        patch = self.patch
        sides = (getattr(config, "patch_size_t", None) or 1, patch, patch) if isinstance(patch, int) else patch
        # where a network fills up what is no whole patch, that is a patch too
        up = self.backbone.filled
        return tuple(-(-size // side) if up else size // side for size, side in zip(sizes, sides[-len(sizes):]))

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """x_t alone, where the network is given more behind it: reference images, or further channels (a mask, a picture to
        fill in or to follow)."""
        if self.references:
            x = x[:, :-self.references]
        config, dim = self._config, 2 if x.ndim == 3 else 1
        # packed: [rows, tokens, channels * patch^2], where channels of x_t come first
        area = getattr(config, "patch_size", 1)**2 if x.ndim == 3 and not self.backbone.sound else 1
        channels = getattr(config, self.backbone.channels, None) or x.shape[dim] // area
        channels = channels * area // (2 if self._learns_variance else 1)
        return x.narrow(dim, 0, channels) if channels < x.shape[dim] else x

    def with_latents(self, whole: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`whole`, its x_t replaced by `x`: the inverse of `latents`."""
        if self.references:
            own, pictures = whole[:, :-self.references], whole[:, -self.references:]
            return torch.cat([replace(self, references=0).with_latents(own, x), pictures], 1)
        dim = 2 if x.ndim == 3 else 1
        further = whole.shape[dim] - x.shape[dim]
        return torch.cat([x, whole.narrow(dim, x.shape[dim], further)], dim) if further else x

    def image_tokens(self, values: dict[str, Any]) -> int:
        """Image tokens of a call."""
        x = values[self.backbone.sample]
        return x.shape[1] - self.references if x.ndim == 3 and not self.backbone.sound else prod(self.tokens(values))

    def condition_modules(self) -> list[torch.nn.Module]:
        """Submodules whose outputs are the condition."""
        return self._matching(self.backbone.condition_modules)

    def time_modules(self) -> list[torch.nn.Module]:
        """Submodules whose outputs embed the timestep."""
        return self._matching(self.backbone.time_modules)

    @property
    def early_head(self) -> torch.nn.Module | None:
        """What gives an intermediate prediction; None where the network has no such head."""
        try:
            return self.module.get_submodule(self.backbone.early_head)
        except AttributeError:
            return None

    def _matching(self, patterns: tuple[str, ...]) -> list[torch.nn.Module]:
        return [m for name, m in self.module.named_modules() if any(fnmatchcase(name, p) for p in patterns)]


def _first(ids: torch.Tensor) -> torch.Tensor:
    """Positions [tokens, coordinates] of the first row."""
    return ids.reshape(-1, *ids.shape[-2:])[0]
