"""Pipelines that make images from text or classes."""

from .entry import FLUX_NEGATIVE, RESCALE, Host

WINDOW = "leave it out, and name a combining rule with a window instead, e.g. cfg=interval:4:low=0.1:high=0.9:unit=progress"
Z_ONLY = (("cfg_truncation", (1, 1.0), f"steps without unconditional rows are not served; {WINDOW}"),)
Z_COMBINED = (("cfg_normalization", (0, 1), "it would shrink our result; say False or True, which both leave it as it is"),)

ENTRIES: tuple[Host, ...] = (
    Host("StableDiffusion3Pipeline", "neg-pos", third_call="skip_layers", third_asked="skip_guidance_layers"),
    Host("DiTPipeline", "pos-neg", prompt="class_labels", negative_prompt=None, sized=False),
    Host("PixArtAlphaPipeline", "neg-pos"),
    Host("PixArtSigmaPipeline", "neg-pos"),
    Host("FluxPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    Host("QwenImagePipeline", "calls", scale="true_cfg_scale",
         negative=(("negative_prompt",), ("negative_prompt_embeds",))),
    Host("ChromaPipeline", "calls-untagged"),
    Host("Flux2Pipeline", "calls", scale=None, negative_prompt=None),
    Host("Flux2KleinPipeline", "calls", negative_prompt=None, distilled="is_distilled"),
    Host("CogView4Pipeline", "calls"),
    Host("AuraFlowPipeline", "neg-pos"),
    Host("HunyuanDiTPipeline", "neg-pos", rescales=RESCALE),
    Host("SanaPipeline", "neg-pos"),
    Host("Lumina2Pipeline", "calls-untagged", rescales=(("cfg_normalization", False),),
         only=(("cfg_trunc_ratio", (1, 1.0), f"steps without the unconditional call are not served; {WINDOW}"),)),
    Host("ZImagePipeline", "pos-neg", off=0.0, only=Z_ONLY, combined=Z_COMBINED),
    Host("ZImageImg2ImgPipeline", "pos-neg", off=0.0, strength="strength", only=Z_ONLY, combined=Z_COMBINED),
    Host("HiDreamImagePipeline", "neg-pos"),
    Host("Krea2Pipeline", "calls-untagged", off=0.0),
)
