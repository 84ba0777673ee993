"""Videos by U-Nets: AnimateDiff and PIA, ModelScope's text to video, I2VGen-XL, Stable Video Diffusion.

Their blocks see each frame by itself, in a row of its own; what mixes frames lies between them.
"""

from dataclasses import replace

from .records import OWN_PAG, RESCALE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack
from .stable_diffusion import END, encode

BLOCK = Stack("down_blocks.*.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2")
STACKS = (BLOCK, replace(BLOCK, name="mid_block.attentions.*.transformer_blocks", middle=True),
          replace(BLOCK, name="up_blocks.*.attentions.*.transformer_blocks"))
FRAMED = Backbone(
    "UNetMotionModel",
    stacks=STACKS,
    per_row=("sample", "timestep", "encoder_hidden_states", "timestep_cond", "attention_mask", "added_cond_kwargs",
             "down_block_additional_residuals", "mid_block_additional_residual"),
    condition=("encoder_hidden_states", "added_cond_kwargs.text_embeds"), kwargs="cross_attention_kwargs", sample="sample",
    time_modules=("time_embedding",), skips=True, unordered=True, framed=True, encode=encode, usual_video=(16, 512, 512),
    frame_rows=("down_block_additional_residuals", "mid_block_additional_residual"),
    frame_copies=("encoder_hidden_states",), token_extent=(1, 8),
)
ANIMATED = Host("AnimateDiffPipeline", "neg-pos", denoiser="unet")
LATE = replace(ANIMATED, strength="strength", floored=True)
DEFAULTS = {
    "pag": Default({"scale": 4.0}, "by analogy with Stable Diffusion: s 3, the middle of the U-Net"),
    "seg": Default({"scale": 4.0, "sigma": 1e7}, "by analogy with SDXL: s 3, the mean query, the middle"),
    "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: Stable Diffusion's"),
    "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
    "pladis": Default({"cross": True}, "published for cross-attention, on Stable Diffusion and SDXL"),
    "gag": Default({"cross": True}, "published for cross-attention, as PLADIS"),
    "o-nag": Default({"cross": True}, "untested default: as NAG"),
    "nasa": Default({"strength": 0.1, "cross": True}, "untested default: Stable Diffusion's"),
    "emag": Default({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle of the U-Net, SD3's window"),
}

FAMILY = Family(
    "AnimateDiff, ModelScope, I2VGen-XL, Stable Video Diffusion: videos by U-Nets",
    networks=(
        FRAMED,
        replace(FRAMED, name="UNet3DConditionModel", frame_copies=(), frame_rows=(), condition=("encoder_hidden_states",),
                per_row=("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond", "attention_mask")),
        replace(FRAMED, name="I2VGenXLUNet", frame_copies=(), frame_rows=(), condition=("encoder_hidden_states",),
                per_row=("sample", "timestep", "fps", "image_latents", "image_embeddings", "encoder_hidden_states",
                         "timestep_cond")),
        replace(FRAMED, name="UNetSpatioTemporalConditionModel", frame_copies=(), frame_rows=(), kwargs=None,
                # its cross-attention sees one key, the picture's embedding: there is nothing to weigh
                stacks=tuple(replace(stack, cross=None) for stack in STACKS),
                condition=("encoder_hidden_states",), channel_dim=2, encode=None, usual_video=(25, 576, 1024),
                per_row=("sample", "timestep", "encoder_hidden_states", "added_time_ids")),
    ),
    pipelines=(
        ANIMATED,
        replace(ANIMATED, name="AnimateDiffSDXLPipeline", refused=END, rescales=RESCALE),
        replace(ANIMATED, name="AnimateDiffControlNetPipeline"),
        replace(ANIMATED, name="AnimateDiffSparseControlNetPipeline"),
        replace(LATE, name="AnimateDiffVideoToVideoPipeline"),
        replace(LATE, name="AnimateDiffVideoToVideoControlNetPipeline"),
        replace(ANIMATED, name="AnimateDiffPAGPipeline", own=OWN_PAG),
        replace(LATE, name="PIAPipeline"),
        replace(ANIMATED, name="TextToVideoSDPipeline"),
        replace(LATE, name="VideoToVideoSDPipeline", sized=False),
        replace(ANIMATED, name="I2VGenXLPipeline"),
        replace(ANIMATED, name="StableVideoDiffusionPipeline", scale="max_guidance_scale", prompt="image",
                negative_prompt=None),
    ),
    defaults={
        "UNetMotionModel": DEFAULTS | {"cfg": Default({"scale": 7.5}, "diffusers AnimateDiffPipeline")},
        "UNet3DConditionModel": DEFAULTS | {"cfg": Default({"scale": 9.0}, "diffusers TextToVideoSDPipeline")},
        "I2VGenXLUNet": DEFAULTS | {"cfg": Default({"scale": 9.0}, "diffusers I2VGenXLPipeline")},
        "UNetSpatioTemporalConditionModel": {
            **{name: DEFAULTS[name] for name in ("pag", "seg", "emag")},
            "cfg": Default({"scale": 2.0}, "between the 1 and 3 of the first and last frame in diffusers' pipeline")},
    },
    examples=(
        Example("AnimateDiff", "./animatediff", "AnimateDiffPipeline", "animatediff", "guidance_scale=7.5",
                output="frames", note="A folder that `save_pretrained` of an AnimateDiffPipeline wrote: an adapter alone is "
                                      "no pipeline."),
        Example("ModelScope text to video", "ali-vilab/text-to-video-ms-1.7b", "TextToVideoSDPipeline", "modelscope",
                "guidance_scale=9.0", output="frames"),
        Example("I2VGen-XL", "ali-vilab/i2vgen-xl", "I2VGenXLPipeline", "i2vgen", "image=photo, guidance_scale=9.0",
                output="frames"),
        Example("Stable Video Diffusion", "stabilityai/stable-video-diffusion-img2vid-xt", "StableVideoDiffusionPipeline",
                "svd", "max_guidance_scale=3.0", prompt="image=photo", output="frames",
                note="The pipeline's own scale grows from frame to frame; a combining rule has one for all."),
    ),
)
