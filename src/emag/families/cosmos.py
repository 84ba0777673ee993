"""Cosmos Predict 2 and 2.5, Cosmos Transfer 2.5."""

from collections.abc import Mapping
from typing import Any

from .encode import text_states
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def chunks(pipe: Any, arguments: Mapping[str, Any]) -> int:
    """Loops of Cosmos Transfer: each makes a chunk, whose first frames may be the last ones of the chunk before."""
    every, latents = pipe.vae_scale_factor_temporal, arguments["num_ar_latent_conditional_frames"]
    shared = arguments["num_ar_conditional_frames"] if latents is None else max(0, (latents - 1) * every + 1)
    frames = pipe.video_processor.preprocess_video(arguments["controls"], 16, 16).shape[2]
    frames = min(frames, arguments["num_frames"] or frames)
    return len(range(0, frames - shared, max(arguments["num_frames_per_chunk"], every + 1) - shared))


FAMILY = Family(
    "Cosmos Predict 2 and 2.5, Cosmos Transfer 2.5",
    networks=(
        Backbone(
            "CosmosTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "block_controlnet_hidden_states",
                     "attention_mask", "condition_mask", "padding_mask"),
            condition=("encoder_hidden_states",), time_scale=1000.0, time_modules=("time_embed.t_embedder",),
            encode=text_states, usual_video=(93, 704, 1280), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        # all combine cond + scale (cond - uncond), where their scale is above 1
        Host("Cosmos2TextToImagePipeline", "calls-untagged", adds=1.0, path="edm"),
        Host("Cosmos2VideoToWorldPipeline", "calls-in-turn", adds=1.0, path="edm"),
        Host("Cosmos2_5_PredictBasePipeline", "calls-untagged", adds=1.0),
        Host("Cosmos2_5_TransferPipeline", "calls-untagged", adds=1.0, parts=chunks),
    ),
    defaults={
        "CosmosTransformer3DModel": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 8.0}, "diffusers' Cosmos 2: cond + 7 (cond - uncond)"),
        },
    },
    examples=(
        Example("Cosmos Predict 2", "nvidia/Cosmos-Predict2-2B-Text2Image", "Cosmos2TextToImagePipeline", "cosmos-2-image",
                "guidance_scale=7.0", note="its pipeline needs the package cosmos_guardrail"),
        Example("Cosmos Predict 2.5", "nvidia/Cosmos-Predict2.5-2B", "Cosmos2_5_PredictBasePipeline", "cosmos-2.5",
                "guidance_scale=7.0", output="frames", note="its pipeline needs the package cosmos_guardrail"),
        Example("Cosmos Transfer 2.5", "nvidia/Cosmos-Transfer2.5-2B", "Cosmos2_5_TransferPipeline", "cosmos-transfer",
                "guidance_scale=3.0", 'controls=edges, prompt="a robot in a kitchen"', output="frames",
                note="its pipeline needs the package cosmos_guardrail; a long video is made in chunks, and rules begin "
                     "afresh in each"),
    ),
)
