"""Pipelines that make images from text or classes."""

from .entry import FLUX_NEGATIVE, Host

REFERENCES = (("image", "the tokens of a reference image would be taken for those of the image in the making"),)

ENTRIES: tuple[Host, ...] = (
    Host("StableDiffusion3Pipeline", "neg-pos", third_call="skip_layers", third_asked="skip_guidance_layers"),
    Host("DiTPipeline", "pos-neg", prompt="class_labels", negative_prompt=None, sized=False),
    Host("PixArtAlphaPipeline", "neg-pos"),
    Host("PixArtSigmaPipeline", "neg-pos"),
    Host("FluxPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    Host("QwenImagePipeline", "calls", scale="true_cfg_scale",
         negative=(("negative_prompt",), ("negative_prompt_embeds",))),
    Host("ChromaPipeline", "calls-untagged"),
    Host("Flux2Pipeline", "calls", scale=None, negative_prompt=None, refused=REFERENCES),
    Host("Flux2KleinPipeline", "calls", negative_prompt=None, distilled="is_distilled", refused=REFERENCES),
    Host("CogView4Pipeline", "calls"),
    Host("AuraFlowPipeline", "neg-pos"),
    Host("HunyuanDiTPipeline", "neg-pos"),
    Host("SanaPipeline", "neg-pos"),
)
