"""Pipelines that make videos."""

from .entry import FLUX_NEGATIVE, RESCALE, Host

# spatio-temporal and modality guidance, each with a network call more
LTX2_OWN = (("stg_scale", 0.0), ("audio_stg_scale", 0.0), ("modality_scale", 1.0), ("audio_modality_scale", 1.0))

ENTRIES: tuple[Host, ...] = (
    Host("WanPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
    Host("WanImageToVideoPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
    Host("WanVACEPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
    Host("WanVideoToVideoPipeline", "calls-untagged", strength="strength", floored=True),
    Host("LTXPipeline", "neg-pos", rescales=RESCALE),
    Host("LTXImageToVideoPipeline", "neg-pos", rescales=RESCALE),
    Host("LTX2Pipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
    Host("LTX2ImageToVideoPipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
    Host("CogVideoXPipeline", "neg-pos"),
    Host("CogVideoXImageToVideoPipeline", "neg-pos"),
    Host("CogVideoXVideoToVideoPipeline", "neg-pos", strength="strength", floored=True),
    Host("MochiPipeline", "neg-pos"),
    Host("HunyuanVideo15Pipeline", "calls", guider="guider"),
    Host("HunyuanVideoPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
)
