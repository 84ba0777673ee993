"""AudioLDM 2: a U-Net on spectrograms of sounds."""

from .records import SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

PATHS = ("down_blocks.*.attentions.*", "mid_block.attentions.*", "up_blocks.*.attentions.*")

FAMILY = Family(
    "AudioLDM 2",
    networks=(
        Backbone(
            # its transformers look at the sound itself, at one text or at the other in turn: the second attention of some
            # is to the sound as well, so that none is declared as that to a text
            "AudioLDM2UNet2DConditionModel",
            stacks=tuple(Stack(f"{path}.transformer_blocks", "attn1", *SINGLE, ("image",), middle=path.startswith("mid"))
                         for path in PATHS),
            per_row=("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond", "attention_mask",
                     "encoder_attention_mask", "encoder_hidden_states_1", "encoder_attention_mask_1"),
            condition=("encoder_hidden_states", "encoder_hidden_states_1"), kwargs="cross_attention_kwargs",
            sample="sample", time_modules=("time_embedding",), skips=True, unordered=True,
        ),
    ),
    pipelines=(Host("AudioLDM2Pipeline", "neg-pos", denoiser="unet", sized=False),),
    defaults={
        "AudioLDM2UNet2DConditionModel": {
            "emag": Default({"scale": 1.5, "window": SD3_WINDOW},
                            "untested default: the middle blocks, as PAG's on Stable Diffusion"),
            "cfg": Default({"scale": 3.5}, "diffusers AudioLDM2Pipeline"),
        },
    },
    examples=(
        Example("AudioLDM 2", "cvssp/audioldm2", "AudioLDM2Pipeline", "audioldm2", "audio_length_in_s=10.0",
                prompt='"rain on a tin roof"', output="audios"),
    ),
)
