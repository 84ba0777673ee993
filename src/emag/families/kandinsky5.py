"""Kandinsky 5."""

from .records import CROSS, MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

STREAM = (("visual_embed",), ("visual_embed",))

FAMILY = Family(
    "Kandinsky 5",
    networks=(
        Backbone(  # positions of text are counted for each prompt, so that conditions by text are refused
            "Kandinsky5Transformer3DModel",
            stacks=(Stack("visual_transformer_blocks", "self_attention", *STREAM, ("image",), "cross_attention"),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections"),
            condition=("encoder_hidden_states", "pooled_projections"),
            time_modules=("time_embeddings",), channels="out_visual_dim", channel_dim=4,
            usual_video=(121, 512, 768), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("Kandinsky5T2VPipeline", "calls-untagged"),
        Host("Kandinsky5T2IPipeline", "calls-untagged"),
        Host("Kandinsky5I2VPipeline", "calls-untagged"),
        Host("Kandinsky5I2IPipeline", "calls-untagged", pictured=True),
    ),
    defaults={
        "Kandinsky5Transformer3DModel": {
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            **CROSS,
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 5.0}, "diffusers Kandinsky5T2VPipeline"),
        },
    },
    examples=(
        Example("Kandinsky 5 Lite", "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers", "Kandinsky5T2VPipeline",
                "kandinsky5", "guidance_scale=5.0", output="frames",
                note="models of sparse attention (nabla) are refused in their first weak pass"),
    ),
)
