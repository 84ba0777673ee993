"""Pipelines that make videos."""

from .entry import FLUX_NEGATIVE, Host

ENTRIES: tuple[Host, ...] = (
    Host("WanPipeline", "calls", second="transformer_2"),
    Host("LTXPipeline", "neg-pos"),
    Host("CogVideoXPipeline", "neg-pos"),
    Host("MochiPipeline", "neg-pos"),
    Host("HunyuanVideoPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
)
