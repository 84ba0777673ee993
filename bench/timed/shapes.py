"""What is timed: pipelines of published shapes, their networks with random weights made on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch

from emag.testing.small import quiet, vae

SEED = 8
NETWORKS = {"sd3": diffusers.SD3Transformer2DModel, "flux": diffusers.FluxTransformer2DModel,
            "dit": diffusers.DiTTransformer2DModel, "wan": diffusers.WanTransformer3DModel}
NO_TEXT = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3")


@dataclass(frozen=True)
class Shape:
    """A network's configuration and the size of what it makes.

    tokens: image tokens. text: text tokens, 0 where they are not in the attention that EMAG averages. size: height and
    width (and frames) as the pipeline is called. batches: sizes that are timed. storage: formats of maps are compared.
    """

    name: str
    family: str
    config: dict[str, Any]
    size: dict[str, int]
    tokens: int
    text: int
    scale: float
    steps: int = 28
    batches: tuple[int, ...] = (1, 4)
    storage: bool = False
    prompt: int = 0  # text tokens of the prompt where they are not in that attention

    @property
    def guided(self) -> bool:
        """True where the pipeline evaluates an unconditional branch too."""
        return self.family != "flux"

    @property
    def plain(self) -> str:
        """Name of the line that the others are compared with."""
        return "CFG" if self.guided else "plain"

    @property
    def depth(self) -> int:
        return int(self.config["num_layers"]) + int(self.config.get("num_single_layers", 0))


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


# sizes are those of latents, as the VAE that `pipeline` gives scales by 1; Wan's are pixels
SD3 = Shape("sd3", "sd3", dict(sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64,
                               num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536,
                               pooled_projection_dim=2048, out_channels=16, pos_embed_max_size=192),
            _square(128), tokens=4096, text=333, scale=7.0, storage=True)
SD35 = replace(SD3, name="sd35", storage=False, config={**SD3.config, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
                                                        "dual_attention_layers": tuple(range(13))})
FLUX = Shape("flux", "flux", dict(patch_size=1, in_channels=64, num_layers=19, num_single_layers=38, attention_head_dim=128,
                                  num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768,
                                  guidance_embeds=True), _square(128), tokens=4096, text=512, scale=3.5)
DIT256 = Shape("dit256", "dit", dict(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8,
                                     num_layers=28, sample_size=32, patch_size=2, num_embeds_ada_norm=1000),
               {}, tokens=256, text=0, scale=4.0)
DIT512 = replace(DIT256, name="dit512", config={**DIT256.config, "sample_size": 64}, tokens=1024)
WAN = Shape("wan", "wan", dict(patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, in_channels=16,
                               out_channels=16, text_dim=4096, freq_dim=256, ffn_dim=8960, num_layers=30),
            {"height": 480, "width": 832, "num_frames": 81}, tokens=21 * 30 * 52, text=0, scale=5.0, steps=10,
            batches=(1,), prompt=512)
TINY = replace(SD3, name="tiny", size=_square(8), tokens=16, text=5, steps=6, config=dict(
    sample_size=8, patch_size=2, in_channels=4, num_layers=12, attention_head_dim=8, num_attention_heads=2,
    joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8))
TINY_FLUX = replace(FLUX, name="tiny-flux", size=_square(8), tokens=16, text=5, steps=6, config=dict(
    FLUX.config, in_channels=16, num_layers=2, num_single_layers=6, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(4, 6, 6)))
TINY_DIT = replace(DIT256, name="tiny-dit", tokens=16, steps=6, config=dict(
    DIT256.config, num_attention_heads=2, attention_head_dim=8, num_layers=4, sample_size=8))
TINY_WAN = replace(WAN, name="tiny-wan", tokens=8, steps=6, size={"height": 32, "width": 32, "num_frames": 5}, config=dict(
    WAN.config, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
    ffn_dim=32, num_layers=4), prompt=5)
SHAPES = {shape.name: shape for shape in (
    SD3, SD35, FLUX, DIT256, DIT512, WAN, TINY, TINY_FLUX, TINY_DIT, TINY_WAN)}


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    """`dtype` for new floating-point tensors while the block lasts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def network(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """The network with random weights, made on the device; what diffusers keeps in fp32 is in fp32."""
    if device != "meta":
        torch.manual_seed(SEED)
    with default(dtype), torch.device(device):
        made = NETWORKS[shape.family](**shape.config)
    kept = made._keep_in_fp32_modules or []
    for name, parameter in made.named_parameters():
        if any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.float()
    return made.eval().requires_grad_(False)


def pipeline(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """A pipeline around that network, without text encoders."""
    net, flow = network(shape, device, dtype), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    if shape.family == "wan":
        return quiet(diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=flow))
    with default(dtype):
        decoder = vae(4 if shape.family != "sd3" else shape.config["in_channels"]).to(device)
    if shape.family == "dit":
        return quiet(diffusers.DiTPipeline(transformer=net, vae=decoder, scheduler=diffusers.DDIMScheduler()))
    cls, encoders = (diffusers.StableDiffusion3Pipeline, 6) if shape.family == "sd3" else (diffusers.FluxPipeline, 4)
    none = dict.fromkeys(NO_TEXT[:encoders])
    return quiet(cls(transformer=net, vae=decoder, scheduler=flow, **none))


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a pipeline, drawn once."""

    shape: Shape
    batch: int
    device: str
    dtype: torch.dtype
    drawn: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shape.family == "dit":
            self.drawn["class_labels"] = [(SEED + 7 * i) % 1000 for i in range(self.batch)]
            return
        for number, sign in enumerate(("", "negative_") if self.shape.guided else ("",)):
            self._draw(sign, SEED + number)

    def _draw(self, sign: str, seed: int) -> None:
        config, noise = self.shape.config, torch.Generator().manual_seed(seed)
        width = config.get("joint_attention_dim") or config["text_dim"]
        text = torch.randn(self.batch, self.shape.text or self.shape.prompt, width, generator=noise)
        self.drawn[f"{sign}prompt_embeds"] = text.to(self.device, self.dtype)
        if "pooled_projection_dim" in config:
            pooled = torch.randn(self.batch, config["pooled_projection_dim"], generator=noise)
            self.drawn[f"{sign}pooled_prompt_embeds"] = pooled.to(self.device, self.dtype)

    def arguments(self, steps: int) -> dict[str, Any]:
        """Keyword arguments for a run of `steps` steps, its noise from the same seeds each time."""
        seeds = [torch.Generator().manual_seed(SEED + i) for i in range(self.batch)]
        kind = "pt" if self.shape.family == "dit" else "latent"  # DiTPipeline always decodes
        return {**self.drawn, **self.shape.size, "generator": seeds, "guidance_scale": self.shape.scale,
                "num_inference_steps": steps, "output_type": kind}
