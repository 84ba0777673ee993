"""The network classes of ComfyUI, as data: what each calls its blocks and streams, and where image tokens sit.

ComfyUI has classes of its own for the same weights. Each entry names the class by its file under `comfy/ldm`, and the
diffusers class whose defaults of rules it shares: the two number their blocks alike.
"""

from dataclasses import dataclass

from .records import JOINT, SINGLE, Backbone, Stack


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
    refused: tuple[tuple[str, str], ...] = ()
    """Arguments of its call that cannot be served, and why."""


ITSELF = ""
"""The block itself: ComfyUI offers every attention call inside it."""
REFERENCES = ("ref_latents", "reference images are tokens behind the image, which are not served in ComfyUI yet")


def _entry(at: str, like: str, family: str, *stacks: Stack, patch: str | tuple[int, ...] = "patch_size",
           refused: tuple[tuple[str, str], ...] = (), skips: bool = False, placed: bool = True) -> ComfyNetwork:
    name = at.rpartition(".")[2]
    backbone = Backbone(name, stacks, per_row=("x",), sample="x", in_place=True, skips=skips, placed=placed)
    return ComfyNetwork(at, like, family, backbone, patch, refused)


_FLUX = (Stack("double_blocks", ITSELF, ("img", "txt"), ("img", "txt"), ("text", "image")),
         Stack("single_blocks", ITSELF, ("x",), ("x",), ("text", "image")))

COMFY: dict[str, ComfyNetwork] = {entry.at: entry for entry in (
    _entry("modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", "SD3Transformer2DModel",
           "Stable Diffusion 3, 3.5 medium and large",
           Stack("joint_blocks", ITSELF, ("x", "context"), ("context", "x"), ("text", "image"), places=(1, 0)),
           placed=False),
    _entry("flux.model.Flux", "FluxTransformer2DModel", "Flux", *_FLUX, refused=(REFERENCES,)),
)}
"""Every network class of ComfyUI we know."""
