"""ComfyUI's attention calls, offered to the slot of a network before they are computed, whatever backend computes them."""

from collections.abc import Callable
from typing import Any

import torch

from ...engine.slot import Slot
from ...maths.attention import Attention

NONE = slice(0, 0)


def override(slot: Slot, before: Callable[..., Any] | None) -> Callable[..., Any]:
    """An `optimized_attention_override`; `before` is the one that was there, through which every live call goes."""

    def attention(func: Callable[..., Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int,
                  mask: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        def computed(q: torch.Tensor, mask: torch.Tensor | None, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            own = (func, q, k, v, heads) if before is not None else (q, k, v, heads)
            return (before or func)(*own, *((mask, *args) if args else ()), **({} if args else {"mask": mask}), **kwargs)

        if not slot.seams:
            return computed(q, mask, k, v)
        split = kwargs.get("skip_reshape", False)
        form = Form(q.shape[-1] if split else q.shape[-1] // heads, split, kwargs.get("skip_output_reshape", False))

        def live(call: Attention) -> torch.Tensor:
            return form.output(computed(form.closed(call.q), call.mask if changed(call) else mask, form.closed(call.k),
                                        form.closed(call.v)))

        def changed(call: Attention) -> bool:
            return call.mask is not asked.mask

        asked = Attention(form.opened(q), form.opened(k), form.opened(v), NONE, _four(mask), kwargs.get("scale"))
        out = slot.attend(asked, live)
        return computed(q, mask, k, v) if out is None else form.handed(out)

    return attention


class Form:
    """Tensors of a call between ComfyUI's two forms, [B, L, H d] and [B, H, L, d], and ours, which is the second one."""

    def __init__(self, width: int, split: bool, split_output: bool):
        self.width, self.split, self.split_output = width, split, split_output

    def opened(self, x: torch.Tensor) -> torch.Tensor:
        """q, k or v as [B, H, L, d]; k and v may have fewer heads, of the same width, and those may be apart already."""
        return x if self.split else x.flatten(2).unflatten(-1, (-1, self.width)).transpose(1, 2)

    def closed(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `opened`."""
        return x if self.split else x.transpose(1, 2).flatten(2)

    def output(self, out: torch.Tensor) -> torch.Tensor:
        """What ComfyUI computed, as [B, H, L, d]."""
        return out if self.split_output else out.unflatten(-1, (-1, self.width)).transpose(1, 2)

    def handed(self, out: torch.Tensor) -> torch.Tensor:
        """Our output [B, H, L, d] as ComfyUI wants it."""
        return out if self.split_output else out.transpose(1, 2).flatten(2)


def _four(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask with its batch and head dimensions, as ComfyUI's backends add them."""
    if mask is not None and mask.ndim == 2:
        mask = mask.unsqueeze(0)
    return mask.unsqueeze(1) if mask is not None and mask.ndim == 3 else mask
