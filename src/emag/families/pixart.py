"""PixArt."""



from .encode import states_and_mask
from .records import CROSS, MIDDLE, OWN_PAG, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "PixArt",
    networks=(
        Backbone(
            "PixArtTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "added_cond_kwargs", "attention_mask",
                     "encoder_attention_mask"),
            condition=("encoder_hidden_states",),
            kwargs="cross_attention_kwargs", time_modules=("adaln_single.emb.timestep_embedder",), placed=False,
            unordered=True, encode=states_and_mask,
        ),
    ),
    pipelines=(
        Host("PixArtAlphaPipeline", "neg-pos"),
        Host("PixArtSigmaPipeline", "neg-pos"),
        Host("PixArtSigmaPAGPipeline", "neg-pos", own=OWN_PAG),
    ),
    defaults={
        "PixArtTransformer2DModel": {
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True},
                           "the authors' ComfyUI workflow for SD1.5, which has cross-attention; sigma_end 4 of k-diffusion"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True},
                           "the authors' values for Wan-1.3B, a model with cross-attention: s 1.7 to 1.9, bias -0.2"),
            "token-merge": Default({"ratio": 0.5, "pool": 1.0, "start": 4, "early": "map", "likeness": "positions",
                                    "cross": True, "layers": tuple(at / 28 for at in range(7, 21))},
                                   "the authors' PixArt-alpha: 20 steps"),
            **CROSS,
            "pag": Default({"scale": 5.0, "layers": (14 / 28,)}, "diffusers PixArt PAG example: s 4, block 14"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "s-cfg": Default({"scale": 4.5, "cross": True, "layers": MIDDLE},
                             "untested default: the CFG scale, the middle blocks"),
            "cfg": Default({"scale": 4.5}, "diffusers PixArtAlphaPipeline"),
        },
    },
    examples=(
        Example("PixArt-alpha", "PixArt-alpha/PixArt-XL-2-1024-MS", "PixArtAlphaPipeline", "pixart", "guidance_scale=4.5"),
        Example("PixArt-Sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArtSigmaPipeline", "sigma",
                "guidance_scale=4.5"),
    ),
)
