"""AuraFlow."""



from .encode import text_states
from .records import EARLY, JOINT, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "AuraFlow",
    networks=(
        Backbone(
            "AuraFlowTransformer2DModel",
            stacks=(Stack("joint_transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "timestep"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_scale=1000.0, time_modules=("time_step_proj",), placed=False, unordered=True,
            encode=text_states, usual_text=264,  # eight register tokens among them
        ),
    ),
    pipelines=(
        Host("AuraFlowPipeline", "neg-pos"),
    ),
    defaults={
        "AuraFlowTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "token-merge": Default({"ratio": 0.3, "pool": 1.4, "start": 2, "early": "whole", "likeness": "features",
                                    "layers": tuple(at / 36 for at in range(4))},
                                   "untested default: as SD3, in the blocks whose image is a stream of its own"),
            "cfg": Default({"scale": 3.5}, "diffusers AuraFlowPipeline"),
        },
    },
    examples=(
        Example("AuraFlow", "fal/AuraFlow", "AuraFlowPipeline", "auraflow", "guidance_scale=3.5"),
    ),
)
