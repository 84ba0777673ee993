"""HunyuanDiT."""

from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, OWN_PAG, RESCALE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    """CLIP and T5; the host's own lengths."""
    found: Tensors = {}
    for index, (end, length) in enumerate((("", 77), ("_t5", 256))):
        states, _, mask, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=length,
                                                text_encoder_index=index)
        found |= {f"encoder_hidden_states{end}": states, f"text_embedding_mask{end}": mask}
    return found


FAMILY = Family(
    "HunyuanDiT",
    networks=(
        Backbone(
            "HunyuanDiT2DModel",
            stacks=(Stack("blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5",
                     "text_embedding_mask_t5", "image_meta_size", "style", "controlnet_block_samples"),
            condition=("encoder_hidden_states", "encoder_hidden_states_t5"),
            time_modules=("time_extra_emb.timestep_embedder",), skips=True,
            encode=encode,
        ),
    ),
    pipelines=(
        Host("HunyuanDiTPipeline", "neg-pos", rescales=RESCALE),
        Host("HunyuanDiTControlNetPipeline", "neg-pos", rescales=RESCALE),
        Host("HunyuanDiTPAGPipeline", "neg-pos", rescales=RESCALE, own=OWN_PAG),
    ),
    defaults={
        "HunyuanDiT2DModel": {
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: PixArt's"),
            "s-cfg": Default({"scale": 5.0, "cross": True, "layers": MIDDLE}, "untested default: as PixArt"),
            **CROSS,
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 5.0}, "diffusers HunyuanDiTPipeline"),
        },
    },
    examples=(
        Example("HunyuanDiT", "Tencent-Hunyuan/HunyuanDiT-Diffusers", "HunyuanDiTPipeline", "hunyuan", "guidance_scale=5.0"),
    ),
)
