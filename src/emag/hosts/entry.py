"""What we know of a pipeline class, as data: how it calls its network and how it combines the answers."""

from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["neg-pos", "pos-neg", "calls", "calls-untagged"]


@dataclass(frozen=True)
class Host:
    """One pipeline class.

    layout: rows of its network call under CFG: one doubled call [negative, positive] or [positive, negative],
    "calls", two calls tagged by `cache_context` as "[pred_]cond" and "[pred_]uncond", or
    "calls-untagged", two calls with the same x_t, conditional first.
    scale: the argument that switches CFG on above `off`; None where it never evaluates unconditional rows. off: 1, or 0
    where the host combines cond + scale (cond - uncond). strength: the argument that leaves out the first part of the
    steps; floored: those left are rounded down, not up. negative: sets of arguments of which one must be given as well.
    third_call: network argument that marks a call of the host's own guidance, let through uncounted; third_asked: the
    pipeline argument that asks for it. prompt, negative_prompt: the arguments that hold the condition. sized: takes
    height and width. distilled: the entry of the pipeline's or its network's configuration that, where set, leaves CFG
    out. second: the component that, where it is there, is a second denoiser; boundary: the entry of the configuration that
    says, as a share of the training steps, below which timestep it takes over. guider: the component that combines, and has
    the scale. scales: further arguments that switch CFG on, for what else the network makes. own: arguments of guidance of
    its own that makes further calls, and where each is off; other values are refused. pictured: prompts are encoded together
    with a picture. refused: arguments that cannot be served, and why. only: those that can be served with some values
    alone where
    CFG is on, and why; combined: those where we combine. rescales: arguments by which it rescales what it combined, and
    where each is off; off they are where we combine.
    """

    name: str
    layout: Layout
    scale: str | None = "guidance_scale"
    off: float = 1.0
    strength: str | None = None
    floored: bool = False
    negative: tuple[tuple[str, ...], ...] = ()
    third_call: str | None = None
    third_asked: str | None = None
    prompt: str = "prompt"
    negative_prompt: str | None = "negative_prompt"
    sized: bool = True
    denoiser: str = "transformer"
    distilled: str | None = None
    second: str | None = None
    boundary: str | None = None
    guider: str | None = None
    scales: tuple[str, ...] = ()
    own: tuple[tuple[str, float], ...] = ()
    pictured: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    only: tuple[tuple[str, tuple[Any, ...], str], ...] = ()
    combined: tuple[tuple[str, tuple[Any, ...], str], ...] = ()
    rescales: tuple[tuple[str, Any], ...] = ()

    def guides(self, arguments: dict[str, Any]) -> bool:
        """True where a call with these arguments evaluates unconditional rows."""
        if self.scale is None or not any((arguments.get(name) or 0) > self.off for name in (self.scale, *self.scales)):
            return False
        return not self.negative or any(
            all(arguments.get(name) is not None for name in names) for names in self.negative)

    @property
    def doubled(self) -> bool:
        """True where both branches come in one call."""
        return not self.layout.startswith("calls")

    def steps(self, arguments: dict[str, Any]) -> int | None:
        """Steps of a call with these arguments, before its scheduler is asked; None where they do not tell."""
        count = arguments.get("num_inference_steps")
        strength = arguments.get(self.strength or "")
        if not count or strength is None:
            return count
        left = min(count * strength, count)
        return int(left) if self.floored else count - int(max(count - left, 0))


RESCALE = (("guidance_rescale", 0.0),)

# arguments that give Flux its unconditional prompt, one set or the other
FLUX_NEGATIVE = (("negative_prompt",), ("negative_prompt_embeds", "negative_pooled_prompt_embeds"))
