"""Image prompts, as IP-Adapters take them: a condition may name one, and so has a branch another picture than the call's."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..engine.network import Network
from ..errors import BadValue, Unsupported

IMAGE_PROMPT = "image_prompt"
"""What a condition calls it: a picture, or one for each adapter, or the embeddings of pictures as tensors."""
LOADERS = ("encoder_hid_proj", "image_proj")  # where diffusers puts an adapter's projection


def image_prompt(value: Any, pipe: Any, network: Network) -> dict[str, Any]:
    """The network's argument for an image prompt, under its name in the network's entry.

    value: a PIL image, a list of them, one for each adapter; or embeddings [1 or images, pictures, width], a list of them
    where there are several adapters. Raises `Unsupported` for a network whose pipelines take no image prompt, `BadValue`
    for one without an adapter and for what is no picture.
    """
    backbone = network.backbone
    if backbone.image_prompt is None:
        raise Unsupported(f"{backbone.name} takes no image prompt that is known here: leave {IMAGE_PROMPT!r} out of the "
                          "condition, or give the network's arguments by name")
    if all(getattr(network.module, name, None) is None for name in LOADERS):
        raise BadValue(f"an image prompt needs an adapter in the {backbone.name}: pipe.load_ip_adapter(...) first")
    several = list(value) if isinstance(value, Sequence) else []
    found: list[Any] = [value] if isinstance(value, (Image.Image, torch.Tensor)) else several
    if found and all(isinstance(one, Image.Image) for one in found):
        found = _embedded(found, pipe)
    if not found or not all(isinstance(one, torch.Tensor) and one.ndim >= 3 for one in found):
        raise BadValue(f"{IMAGE_PROMPT!r} is a PIL image, or one for each adapter, or embeddings [1 or images, pictures, "
                       f"width], got {type(value).__name__}")
    return {backbone.image_prompt: found if backbone.image_prompts else found[0]}


def _embedded(pictures: list[Image.Image], pipe: Any) -> list[torch.Tensor]:
    """What the pipeline's image encoder makes of pictures, one for each adapter."""
    prepare = pipe.prepare_ip_adapter_image_embeds
    further = {"do_classifier_free_guidance": False} if "do_classifier_free_guidance" in inspect.signature(
        prepare).parameters else {}
    made = prepare(ip_adapter_image=pictures if len(pictures) > 1 else pictures[0], ip_adapter_image_embeds=None,
                   device=pipe._execution_device, num_images_per_prompt=1, **further)
    return list(made) if isinstance(made, (list, tuple)) else [made]
