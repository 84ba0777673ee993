"""Cosmos 3: text, pictures and videos in one sequence, whose text is read on its own and whose picture reads both."""

from .records import MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

BESIDE = "it lies behind the picture in its sequence, and what is about the picture would be about it too: leave it out"

FAMILY = Family(
    "Cosmos 3",
    networks=(
        Backbone(
            "Cosmos3OmniTransformer",
            stacks=(Stack("layers", "self_attn", ("gen_seq", "und_seq"), ("und_seq", "gen_seq"), ("image",),
                          keys=("text", "image"), rowless=True),),
            per_row=("vision_tokens",), sample="vision_tokens", text="input_ids", timestep="vision_timesteps",
            time_modules=("time_embedder",), channels="latent_channel", lists=("vision_tokens",), lone=True, filled=True,
            unserved=(("sound_tokens", BESIDE), ("action_tokens", BESIDE)), usual_text=256, latent_pixels=16,
            usual_video=(189, 720, 1280), token_extent=(4, 32),
        ),
    ),
    pipelines=(
        Host("Cosmos3OmniPipeline", "calls", differs=True, refused=(
            ("action", "actions are not served"), ("enable_sound", "its sound is not served"))),
    ),
    defaults={
        "Cosmos3OmniTransformer": {
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 6.0}, "diffusers Cosmos3OmniPipeline"),
        },
    },
    examples=(
        Example("Cosmos 3", "nvidia/Cosmos3-Nano", "Cosmos3OmniPipeline", "cosmos3", "guidance_scale=6.0",
                output="video", note="its pipeline needs the package cosmos_guardrail; sound and actions are not served"),
    ),
)
