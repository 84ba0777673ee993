"""The one seam for attention: an attention module's own forward, with its fused attention call intercepted.

The module's processor, LoRA, norms, rotary and quantisation run as they are; only the call of
`scaled_dot_product_attention` whose queries have the expected length is handed to us, with q, k, v bound by name.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName

from ..errors import Unsupported
from ..maths.attention import Attention
from .undo import Scoped, Undo, patch

SDPA = F.scaled_dot_product_attention
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
Live = Callable[[Attention], torch.Tensor]
Handler = Callable[[Attention, Live], torch.Tensor]
"""What stands in for an attention call: (call, live) -> output; `live` computes a call, or a part of it, as it is."""


class Seam(Scoped):
    """Scoped interceptor: calls of `length` queries go to `handle(call, live)`; `fired` counts them.

    cross: the keys are others than the queries' tokens; else they are as many. references: tokens of reference images,
    right behind those of `image`. keys: what the keys are where they are more than the queries, "image" and "text" in order;
    apart: then they always are, and a call of as many is of the text.
    before: how many such calls come first and are let through. once: those after the first
    are let through too.
    """

    def __init__(self, length: int, image: slice, handle: Handler, cross: bool = False, references: int = 0,
                 before: int = 0, once: bool = False, keys: tuple[str, ...] = (),
                 apart: bool = False):
        super().__init__()
        self.length, self.image, self.handle, self.cross, self.fired = length, image, handle, cross, 0
        self.references, self.before, self.once, self.keys, self.apart = references, before, once, keys, apart

    def takes(self, queries: int, keys: int) -> bool:
        """True where a call of so many queries and keys is the one that is waited for; asked once for each call."""
        more = bool(self.keys) and keys > self.length
        if queries != self.length or not (self.cross or more or (keys == self.length and not self.apart)):
            return False
        # of cross-attentions, those to a picture come first or last, with queries of the same length
        if self.before:
            self.before -= 1
            return False
        if self.once and self.fired:
            return False
        self.fired += 1
        return True

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not SDPA or self.over:
            return func(*args, **kwargs)
        # an attention module may make other fused calls: to pictures, or inside a processor. Ours is told by its length
        bound = {**dict(zip(NAMES, args)), **kwargs}
        # beside the image's own call there may be one of the text alone, of as many tokens
        if (self.keys and bound.get("is_causal")) or not self.takes(bound["query"].shape[-2], bound["key"].shape[-2]):
            return func(*args, **kwargs)
        if bound.get("is_causal") or bound.get("dropout_p"):
            raise Unsupported("causal attention and dropout inside attention are not handled; switch them off")
        call = Attention(bound["query"], bound["key"], bound["value"], self.image, bound.get("attn_mask"),
                         bound.get("scale"), self.cross, self.references)
        # where a text's keys come first, ours are the image's first, so that it sits in both at one place
        text = call.k.shape[2] - self.length if self.keys[:1] == ("text",) else 0
        call = rolled(call, -text)

        def live(part: Attention) -> torch.Tensor:
            part = rolled(part, part.k.shape[2] - self.length if text else 0)
            return func(**{**bound, "query": part.q, "key": part.k, "value": part.v, "attn_mask": part.mask})

        return in_full_precision(self.handle, call, live)


def rolled(call: Attention, by: int) -> Attention:
    """The same call, the places of its keys turned by so many: softmax does not mind their order."""
    if not by:
        return call
    mask = call.mask if call.mask is None or call.mask.shape[-1] == 1 else call.mask.roll(by, -1)
    return replace(call, k=call.k.roll(by, 2), v=call.v.roll(by, 2), mask=mask)


def in_full_precision(handle: Handler, call: Attention, live: Live) -> torch.Tensor:
    """Our arithmetic outside the user's autocast, which would take maps to half precision; the live call inside it."""
    device = call.q.device.type
    if not torch.is_autocast_enabled(device):
        return handle(call, live)

    def cast(part: Attention) -> torch.Tensor:
        with torch.autocast(device, enabled=True):
            return live(part)

    with torch.autocast(device, enabled=False):
        return handle(call, cast)


def native_backend(attention: torch.nn.Module, undo: Undo) -> None:
    """Run a module's attention through `scaled_dot_product_attention`, where its processor would pick another backend."""
    if not is_native(attention):
        patch(undo, attention.processor, "_attention_backend", AttentionBackendName.NATIVE)


def is_native(attention: torch.nn.Module) -> bool:
    """True where a module's processor picks no other backend."""
    processor: Any = getattr(attention, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return True
    backend = processor._attention_backend
    if backend is None:
        backend, _ = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    return AttentionBackendName(backend) in (AttentionBackendName.NATIVE, AttentionBackendName._NATIVE_MATH)
