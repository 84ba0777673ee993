"""One pipeline class: how it calls its network, and how it combines the answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["neg-pos", "pos-neg", "pos-between-neg", "pos-neg-between", "calls", "calls-untagged", "calls-in-turn"]
NoisePath = Literal["scheduler", "edm", "preconditioned", "trigonometric"]

Parts = Callable[[Any, Mapping[str, Any]], int]
"""(pipeline, arguments of a call) -> loops of the call, each of which makes a part of the answer."""


@dataclass(frozen=True)
class Host:
    """One pipeline class: how it calls its network and how it combines the answers."""

    name: str
    """The class."""
    layout: Layout
    """Rows of its network call under CFG: one doubled call [negative, positive] or [positive, negative], or one with rows
    "between" the two, with the picture and without the text; "calls", two calls
    tagged by `cache_context`; "calls-untagged", two calls with the same x_t, conditional first; "calls-in-turn", two calls,
    conditional first, each with an x_t of its own."""
    scale: str | None = "guidance_scale"
    """The argument that switches CFG on above `off`; None where it never evaluates unconditional rows."""
    off: float = 1.0
    """1, or 0 where the host combines cond + scale (cond - uncond)."""
    adds: float | None = None
    """What its scale lacks to be that of uncond + s (cond - uncond); None is 1 - `off`."""
    path: NoisePath = "scheduler"
    """What its scheduler's times are. "edm": the sigma of x0 + sigma epsilon, and its flow network is given that over 1 +
    sigma; "preconditioned": its sigmas are those, and its network is given that over (sigma^2 + sigma_data^2)^(1/2);
    "trigonometric": the angle t of cos(t) x0 + sin(t) epsilon, and its flow network is given that over cos + sin."""
    above: float | None = None
    """What the scale must be above for unconditional rows, where that is not `off`."""
    at_least: tuple[tuple[str, float], ...] = ()
    """Further arguments that must be at least so much for unconditional rows."""
    differs: bool = False
    """It evaluates unconditional rows at any scale but `off`, also below."""
    strength: str | None = None
    """The argument that leaves out the first part of the steps."""
    floored: bool = False
    """The steps that `strength` leaves are rounded down, not up."""
    negative: tuple[tuple[str, ...], ...] = ()
    """Sets of arguments of which one must be given as well for CFG."""
    third_call: str | None = None
    """Network argument that marks a call of the host's own guidance, let through uncounted."""
    third_asked: str | None = None
    """The pipeline argument that asks for the third call."""
    prompt: str = "prompt"
    """The argument that holds the condition; "batch_size" where there is none."""
    negative_prompt: str | None = "negative_prompt"
    """The argument that holds the unconditional one."""
    sized: bool = True
    """It takes height and width."""
    denoiser: str = "transformer"
    """The component that is the network."""
    scheduler: str = "scheduler"
    """The component that is its scheduler."""
    count: str = "num_inference_steps"
    """The argument that counts its steps."""
    distilled: str | None = None
    """The entry of the pipeline's or its network's configuration that, where set, leaves CFG out."""
    second: str | None = None
    """The component that, where it is there, is a second denoiser."""
    boundary: str | None = None
    """The entry of the configuration that says, as a share of the training steps, below which timestep `second` serves."""
    guider: str | None = None
    """The component that combines, and has the scale."""
    further_guider: str | None = None
    """A component that takes the place of `guider` for some prompts; it must not be there."""
    scales: tuple[str, ...] = ()
    """Further arguments that switch CFG on, for what else the network makes."""
    own: tuple[tuple[str, float], ...] = ()
    """Arguments of guidance of its own that makes further calls, and where each is off; other values are refused."""
    pictured: bool = False
    """Prompts are encoded together with a picture."""
    refused: tuple[tuple[str, str], ...] = ()
    """Arguments that cannot be served, and why."""
    only: tuple[tuple[str, tuple[Any, ...], str], ...] = ()
    """Arguments that can be served with some values alone where CFG is on, and why."""
    combined: tuple[tuple[str, tuple[Any, ...], str], ...] = ()
    """The same where we combine."""
    kept: tuple[tuple[str, Any], ...] = ()
    """Arguments by which a pass takes what an earlier one kept, and where each is off; off they are in a guided call."""
    parts: Parts | None = None
    """How many loops a call has, all along one path and of the same shapes, in each of which rules begin afresh; None is
    one."""
    rescales: tuple[tuple[str, Any], ...] = ()
    """Arguments by which it rescales what it combined, and where each is off; off they are where we combine."""

    def guides(self, arguments: dict[str, Any]) -> bool:
        """True where a call with these arguments evaluates unconditional rows."""
        if self.scale is None:
            return False
        scales = [arguments.get(name) or 0 for name in (self.scale, *self.scales)]
        if not any(scale > self.least or (self.differs and scale != self.off) for scale in scales):
            return False
        if any((arguments.get(name) or 0) < least for name, least in self.at_least):
            return False
        return not self.negative or any(
            all(arguments.get(name) is not None for name in names) for names in self.negative)

    def as_cfg(self, scale: float) -> float:
        """A value of its scale as the s of uncond + s (cond - uncond)."""
        return scale + (1 - self.off if self.adds is None else self.adds)

    @property
    def least(self) -> float:
        """The scale above which it evaluates unconditional rows."""
        return self.off if self.above is None else self.above

    @property
    def between(self) -> bool:
        """True where a picture is weighed apart from the text, by rows of its own."""
        return "between" in self.layout

    @property
    def doubled(self) -> bool:
        """True where both branches come in one call."""
        return not self.layout.startswith("calls")

    def steps(self, arguments: dict[str, Any]) -> int | None:
        """Steps of a call with these arguments, before its scheduler is asked; None where they do not tell."""
        count = arguments.get(self.count)
        strength = arguments.get(self.strength or "")
        if not count or strength is None:
            return count
        left = min(count * strength, count)
        return int(left) if self.floored else count - int(max(count - left, 0))
