"""Published networks that judge an image, beside a prompt or alone: where they are, and how they are loaded.

CLIP and PickScore by transformers, HPS by open_clip, the LAION aesthetic score and ImageReward with a head. Weights are read
without running code.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import BadValue
from .folder import first_line

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE, PICKSCORE_WORDS = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_WORDS = 77
HPS_HUB, HPS_NETWORK, HPS_SIZE = "xswu/HPSv2", "ViT-H-14", 224
HPS_FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
AESTHETIC = ("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth")
REWARD = ("THUDM/ImageReward", "ImageReward.pt")
REWARD_MEAN, REWARD_STD, REWARD_WORDS = 0.16717362830052426, 1.0333394966054072, 35
VISION = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, image_size=224,
              layer_norm_eps=1e-6)
TEXT = dict(hidden_size=768, encoder_hidden_size=1024, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
"""Sizes of ImageReward's two parts."""
RENAMED = ((r"^patch_embed\.proj\.", "embeddings.patch_embedding."), (r"^cls_token$", "embeddings.class_embedding"),
           (r"^pos_embed$", "embeddings.position_embedding"), (r"^norm\.", "post_layernorm."),
           (r"^blocks\.", "encoder.layers."), (r"\.norm([12])\.", r".layer_norm\1."), (r"\.attn\.qkv\.", ".self_attn.qkv."),
           (r"\.attn\.proj\.", ".self_attn.projection."))
"""Names of the vision weights in ImageReward.pt -> those of transformers."""

Built = TypeVar("Built")


def needs(build: Callable[[], Built], what: str, install: str) -> Built:
    """`build()`; a missing package or missing weights become one `BadValue` that says how to get them."""
    try:
        return build()
    except ImportError as error:
        raise BadValue(f"{what} needs a package that is not here ({error.name or error}): pip install {install}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise BadValue(f"{what}: its weights cannot be loaded ({first_line(error)}); they are fetched once, so run this "
                       "where there is a network, or choose another") from error


def load_clip(model: str = CLIP, tokenizer: str | None = None) -> tuple[Any, Any]:
    """A `CLIPModel` and its tokenizer, from a folder or by their hub ids; tokenizer None is the model's own."""
    from transformers import AutoTokenizer, CLIPModel

    net = needs(lambda: CLIPModel.from_pretrained(model).eval(), model, "transformers")
    return net, needs(lambda: AutoTokenizer.from_pretrained(tokenizer or model), tokenizer or model, "transformers")


def load_hps(number: str = "2.1", network: str = HPS_NETWORK) -> tuple[Any, Any]:
    """open_clip's network with the weights of HPS v`number`, and its tokenizer."""
    if number not in HPS_FILES:
        raise BadValue(f"HPS has versions {', '.join(HPS_FILES)}, not {number!r}")

    def build() -> tuple[Any, Any]:
        import open_clip
        from huggingface_hub import hf_hub_download

        net = open_clip.create_model(network, pretrained=None, precision="fp32")
        net.load_state_dict(checkpoint(hf_hub_download(HPS_HUB, HPS_FILES[number])))
        return net.eval(), open_clip.get_tokenizer(network)

    return needs(build, f"HPS v{number}", "open_clip_torch")


def load_aesthetic(width: int = 768) -> nn.Module:
    """The head of the LAION aesthetic score, on the normalised image embedding [n, width] of CLIP ViT-L/14."""
    def build() -> nn.Module:
        from huggingface_hub import hf_hub_download

        state, made = checkpoint(hf_hub_download(*AESTHETIC)), head(width)
        made.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
        return made

    return needs(build, "aesthetic score", "huggingface_hub")


def load_imagereward() -> tuple[nn.ModuleDict, Any]:
    """ImageReward's parts "vision", "text" and "head", and its tokenizer."""
    def build() -> tuple[nn.ModuleDict, Any]:
        from huggingface_hub import hf_hub_download
        from transformers import AutoTokenizer, BlipTextConfig, BlipVisionConfig

        net = reward_network(BlipVisionConfig(**VISION), BlipTextConfig(**TEXT))
        net.load_state_dict(renamed(checkpoint(hf_hub_download(*REWARD)), net))
        return net, AutoTokenizer.from_pretrained("bert-base-uncased")

    return needs(build, "ImageReward", "transformers")


def checkpoint(path: str) -> dict[str, torch.Tensor]:
    """The state in a checkpoint: tensors only, nothing in the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("the file is damaged, or holds more than tensors") from None
    return state.get("state_dict", state)


def head(width: int) -> nn.Sequential:
    """The linear layers that both scores end in: width -> 1024 -> 128 -> 64 -> 16 -> 1, no nonlinearity."""
    sizes = (width, 1024, 128, 64, 16, 1)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b), *([nn.Dropout()] if i < 3 else [])]
    return nn.Sequential(*layers).eval()


def reward_network(vision: Any, text: Any) -> nn.ModuleDict:
    """BLIP's vision model, its text model that looks at the image, and the head; not trained."""
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    return nn.ModuleDict({"vision": BlipVisionModel(vision), "text": BlipTextModel(text, add_pooling_layer=False),
                          "head": head(text.hidden_size)}).eval()


def reward(net: nn.ModuleDict, pixels: torch.Tensor, words: Any) -> torch.Tensor:
    """ImageReward [n] of prepared images [n, 3, size, size] and their tokens, standardised as published."""
    read = net["text"](input_ids=words.input_ids, attention_mask=words.attention_mask, is_decoder=False,
                       encoder_hidden_states=net["vision"](pixel_values=pixels).last_hidden_state)
    return (net["head"](read.last_hidden_state[:, 0].float())[:, 0] - REWARD_MEAN) / REWARD_STD


def renamed(state: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of ImageReward.pt by the names of `reward_network`; those that a score does not read are left out."""
    parts = {"blip.visual_encoder.": "vision.", "blip.text_encoder.": "text.", "mlp.layers.": "head."}
    known, found = net.state_dict().keys(), {}
    for name, value in state.items():
        start = next((start for start in parts if name.startswith(start)), None)
        if start is None:
            continue
        rest = name.removeprefix(start)
        for old, new in RENAMED if start.startswith("blip.visual") else ():
            rest = re.sub(old, new, rest)
        if parts[start] + rest in known:
            found[parts[start] + rest] = value
    return found
