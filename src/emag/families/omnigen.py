"""OmniGen."""

from .records import EARLY, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

PICTURES = ("its rows tell by their numbers which picture is whose, and a pass of some rows would take those of others")

FAMILY = Family(
    "OmniGen",
    networks=(
        Backbone(
            "OmniGenTransformer2DModel",
            # the token of the time stands behind the text's, and counts as one of them
            stacks=(Stack("layers", "self_attn", *MERGED, ("text", "image"), to_itself=True),),
            # positions are those of the first row for all rows: they are left as they are
            per_row=("hidden_states", "timestep", "input_ids", "attention_mask"),
            condition_modules=("embed_tokens",), text="input_ids", channels="in_channels", negated=True,
            time_modules=("time_token", "t_embedder"), usual_text=128,
        ),
    ),
    # unconditional rows are evaluated at any scale
    pipelines=(Host("OmniGenPipeline", "pos-neg", above=float("-inf"), negative_prompt=None,
                    refused=(("input_images", PICTURES),)),),
    defaults={
        "OmniGenTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 2.5}, "diffusers OmniGenPipeline"),
        },
    },
    examples=(
        Example("OmniGen", "Shitao/OmniGen-v1-diffusers", "OmniGenPipeline", "omnigen", "guidance_scale=2.5",
                note="pictures in the prompt are not served"),
    ),
)
