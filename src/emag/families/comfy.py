"""The network classes of ComfyUI, as data: what each calls its blocks and streams, and where image tokens sit.

ComfyUI has classes of its own for the same weights. Each entry names the class by its file under `comfy/ldm`, and the
diffusers class whose defaults of rules it shares: the two number their blocks alike.
"""

from dataclasses import dataclass
from typing import Any

from .records import JOINT, Backbone, Stack


@dataclass(frozen=True)
class ComfyNetwork:
    """One network class of ComfyUI."""

    at: str
    """Its file under comfy/ldm and its name."""
    like: str
    """The diffusers class whose defaults of rules it has."""
    family: str
    """The models that are of this class, for a person."""
    backbone: Backbone
    """Its blocks and streams."""
    patch: str | tuple[int, ...] = "patch_size"
    """Sides of a patch of x_t, ([frames,] rows, columns) or one for rows and columns; or the attribute that holds them."""
    like_with: tuple[str, str] | None = None
    """An attribute that, where it is set, says that the model is of another family; and the diffusers class of that one."""
    image_first_with: str | None = None
    """An attribute that, where it is set, says that image tokens come before those of the text, and not after them as its
    stacks say: an older ComfyUI."""
    padded_to: str | None = None
    """The attribute with the number that the image tokens are padded to a multiple of."""
    condition: tuple[tuple[str, str], ...] = (("c_crossattn", "encoder_hidden_states"),)
    """What a condition rule may change: ComfyUI's names in `model_conds`, and what diffusers calls the same."""
    refused: tuple[tuple[str, str], ...] = ()
    """Arguments of its call that cannot be served, and why."""


POOLED = (("c_crossattn", "encoder_hidden_states"), ("y", "pooled_projections"))
ITSELF = ""
"""The block itself: ComfyUI offers every attention call inside it."""
BEHIND = "reference images are further tokens beside the image, which are not served in ComfyUI yet"
REFERENCES = (("ref_latents", BEHIND), ("ref_latent", BEHIND), ("reference_latent", BEHIND), ("image_cond", BEHIND),
              ("time_dim_concat", BEHIND), ("keyframe_idxs", "key frames are further tokens behind the video"))
FRAMES = (("num_video_frames", "its frames are batch rows of one video"),)

FLUX = (Stack("double_blocks", ITSELF, ("img", "txt"), ("img", "txt"), ("text", "image")),
        Stack("single_blocks", ITSELF, ("x",), ("x",), ("text", "image")))
UNET = ("modules.diffusionmodules.openaimodel.UNetModel", "UNet2DConditionModel", "Stable Diffusion 1.5, 2 and SDXL")


def _entry(at: str, like: str, family: str, *stacks: Stack, skips: bool = False, placed: bool = True,
           **more: Any) -> ComfyNetwork:
    backbone = Backbone(at.rpartition(".")[2], stacks, per_row=("x",), sample="x", in_place=True, skips=skips, placed=placed)
    return ComfyNetwork(at, like, family, backbone, **{"refused": REFERENCES, **more})


COMFY: dict[str, ComfyNetwork] = {entry.at: entry for entry in (
    _entry("modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", "SD3Transformer2DModel",
           "Stable Diffusion 3, 3.5 medium and large",
           Stack("joint_blocks", ITSELF, ("x", "context"), ("context", "x"), ("text", "image"), places=(1, 0)),
           placed=False, condition=POOLED),
    _entry("flux.model.Flux", "FluxTransformer2DModel", "Flux, Flux 2", *FLUX, condition=POOLED,
           like_with=("params.global_modulation", "Flux2Transformer2DModel")),
    _entry("chroma.model.Chroma", "ChromaTransformer2DModel", "Chroma", *FLUX),
    _entry("hunyuan_video.model.HunyuanVideo", "HunyuanVideoTransformer3DModel", "HunyuanVideo", *FLUX,
           condition=POOLED, image_first_with="double_blocks.0.flipped_img_txt"),
    _entry("qwen_image.model.QwenImageTransformer2DModel", "QwenImageTransformer2DModel", "Qwen-Image",
           Stack("transformer_blocks", ITSELF, *JOINT, ("text", "image"))),
    _entry("wan.model.WanModel", "WanTransformer3DModel", "Wan 2.1, 2.2",
           Stack("blocks", ITSELF, ("x",), ("x",), ("image",), cross="cross_attn", cross_picture="k_img")),
    _entry("lightricks.model.LTXVModel", "LTXVideoTransformer3DModel", "LTX-Video",
           Stack("transformer_blocks", ITSELF, ("x",), ("x",), ("image",), cross="attn2"), patch=(1, 1)),
    _entry("lumina.model.NextDiT", "Lumina2Transformer2DModel", "Lumina 2, Z-Image",
           Stack("layers", ITSELF, ("x",), ("x",), ("text", "image")),
           like_with=("pad_tokens_multiple", "ZImageTransformer2DModel"), padded_to="pad_tokens_multiple"),
    _entry("hidream.model.HiDreamImageTransformer2DModel", "HiDreamImageTransformer2DModel", "HiDream",
           Stack("double_stream_blocks", ITSELF, ("image_tokens", "text_tokens"), ("image_tokens", "text_tokens"),
                 ("image", "text")),
           Stack("single_stream_blocks", ITSELF, ("image_tokens",), ("image_tokens",), ("image", "text")),
           condition=()),
    _entry(*UNET,
           Stack("input_blocks.*.*.transformer_blocks", ITSELF, ("x",), ("x",), ("image",), cross="attn2"),
           Stack("middle_block.*.transformer_blocks", ITSELF, ("x",), ("x",), ("image",), cross="attn2", middle=True),
           Stack("output_blocks.*.*.transformer_blocks", ITSELF, ("x",), ("x",), ("image",), cross="attn2"),
           skips=True, patch=(1, 1), refused=FRAMES),
)}
"""Every network class of ComfyUI we know."""
