"""LongCat-AudioDiT."""

from typing import Any

import torch

from .encode import Tensors
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, lengths = pipe.encode_prompt(texts, pipe._execution_device)
    return {"encoder_hidden_states": states,
            "encoder_attention_mask": torch.arange(states.shape[1], device=states.device) < lengths[:, None]}


FAMILY = Family(
    "LongCat-AudioDiT",
    networks=(
        Backbone(
            "LongCatAudioDiTTransformer",
            stacks=(Stack("blocks", "self_attn", *SINGLE, ("image",), "cross_attn"),),
            per_row=("hidden_states", "encoder_hidden_states", "encoder_attention_mask", "timestep", "attention_mask",
                     "latent_cond"),
            condition=("encoder_hidden_states",), time_scale=1000.0, time_modules=("time_embed",), negated=True, sound=True,
            channels="latent_dim", encode=encode,
        ),
    ),
    pipelines=(Host("LongCatAudioDiTPipeline", "calls-untagged", sized=False),),
    defaults={
        "LongCatAudioDiTTransformer": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW},
                            "untested default: DiT's blocks; EMAG's authors guide pictures, not sounds"),
            "cfg": Default({"scale": 4.0}, "diffusers LongCatAudioDiTPipeline"),
        },
    },
    examples=(
        Example("LongCat-AudioDiT", "ruixiangma/LongCat-AudioDiT-1B-Diffusers", "LongCatAudioDiTPipeline", "longcat-audio",
                "audio_duration_s=5.0, guidance_scale=4.0", prompt='"rain on a tin roof"', output="audios"),
    ),
)
