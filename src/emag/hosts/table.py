"""What we know of each pipeline class, as data: how it calls its network and how it combines the answers."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import Unsupported

Layout = Literal["neg-pos", "pos-neg", "calls"]


@dataclass(frozen=True)
class Host:
    """One pipeline class.

    layout: rows of its network call under CFG: one doubled call [negative, positive] or [positive, negative], or
    "calls", two calls tagged by `cache_context`. scale: the argument that switches CFG on above 1. negative: sets of
    arguments of which one must be given as well. third_call: network argument that marks a call of the host's own
    guidance, let through uncounted; third_asked: the pipeline argument that asks for it.
    prompt, negative_prompt: the arguments that hold the condition. sized: takes height and width.
    """

    name: str
    layout: Layout
    scale: str = "guidance_scale"
    negative: tuple[tuple[str, ...], ...] = ()
    third_call: str | None = None
    third_asked: str | None = None
    prompt: str = "prompt"
    negative_prompt: str | None = "negative_prompt"
    sized: bool = True
    denoiser: str = "transformer"

    def guides(self, arguments: dict[str, Any]) -> bool:
        """True where a call with these arguments evaluates unconditional rows."""
        if not arguments[self.scale] > 1:
            return False
        return not self.negative or any(
            all(arguments.get(name) is not None for name in names) for names in self.negative)


HOSTS: dict[str, Host] = {host.name: host for host in (
    Host("StableDiffusion3Pipeline", "neg-pos", third_call="skip_layers", third_asked="skip_guidance_layers"),
    Host("DiTPipeline", "pos-neg", prompt="class_labels", negative_prompt=None, sized=False),
    Host("PixArtAlphaPipeline", "neg-pos"),
    Host("PixArtSigmaPipeline", "neg-pos"),
    Host("FluxPipeline", "calls", scale="true_cfg_scale",
         negative=(("negative_prompt",), ("negative_prompt_embeds", "negative_pooled_prompt_embeds"))),
)}


def lookup(pipe: Any) -> Host:
    """The table entry of a pipeline's class or of one of its bases. Raises `Unsupported` where there is none."""
    for cls in type(pipe).__mro__:
        if cls.__name__ in HOSTS:
            return HOSTS[cls.__name__]
    raise Unsupported(f"{type(pipe).__name__} is not a supported pipeline; supported are {', '.join(HOSTS)}")
