"""What we know of a model family, as data. Nothing here is guessed: what is not declared is refused where it is needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ..schedules import Interval, Window

Tensors = dict[str, torch.Tensor]
"""Network arguments by name, rows first."""

Encode = Callable[[Any, list[str]], Tensors]
"""(pipeline, prompts) -> the arguments its network takes for them, one row each."""

Layout = Literal["neg-pos", "pos-neg", "calls", "calls-untagged"]


@dataclass(frozen=True)
class Stack:
    """One list of blocks of a network."""

    name: str
    """Attribute of the network; a path with * for every entry of a list means all the lists it leads to."""
    attention: str
    """The block's attention module that mixes image tokens."""
    streams: tuple[str, ...]
    """Block arguments that flow from block to block."""
    returns: tuple[str, ...]
    """The same names, in the order in which a block returns them."""
    tokens: tuple[str, ...]
    """What the attention sees along its sequence, in order: ("image",), ("image", "text") or ("text", "image")."""
    cross: str | None = None
    """The block's attention module from image to text, where that is one of its own."""
    cross_picture: str | None = None
    """An attribute of `cross` that is there where it attends to a picture first, in a call of its own."""
    linear: bool = False
    """`attention` has no map, and makes no fused call."""
    each_sample: bool = False
    """`attention` makes one call for each sample, of the image tokens and those of the text that are not masked."""
    middle: bool = False
    """The bottom of a network that narrows and widens again: what rules take where no layers are named."""
    padded: bool = False
    """The stream of the image may end in padding."""
    places: tuple[int, ...] = ()
    """Where the streams sit among the arguments by place, of a block whose forward does not name them."""


@dataclass(frozen=True)
class Backbone:
    """One denoiser class: where its blocks are, and what its arguments mean."""

    name: str
    """The class."""
    stacks: tuple[Stack, ...]
    """Its lists of blocks, in the order in which they run."""
    per_row: tuple[str, ...]
    """Arguments whose first dimension is the batch (tensors, or lists and dicts of tensors)."""
    condition: tuple[str, ...] = ()
    """Arguments that a condition rule may change; "a.b" is entry b of the dict a."""
    condition_modules: tuple[str, ...] = ()
    """Submodules (fnmatch patterns) whose outputs are the condition, where the argument itself is no float tensor."""
    kwargs: str | None = None
    """Its dict of extra attention arguments."""
    kwargs_rows: tuple[str, ...] = ()
    """Entries of that dict whose first dimension is the batch."""
    sample: str = "hidden_states"
    """The argument that is x_t."""
    text: str | None = "encoder_hidden_states"
    """The argument with the text tokens."""
    timestep: str = "timestep"
    """The argument with the time."""
    time_scale: float = 1.0
    """What its timestep is multiplied by to give the scheduler's, before `time_offset` is added."""
    time_offset: float = 0.0
    """See `time_scale`."""
    time_modules: tuple[str, ...] = ()
    """Submodules (fnmatch patterns) that embed the timestep."""
    grid_ids: str | None = None
    """Where x_t is a sequence of patches: the argument with the (.., row, column) of each image token, or a list per image
    of (frames, rows, columns)."""
    grid_at: tuple[int, int] = (-2, -1)
    """Where row and column sit in `grid_ids`."""
    grid_sizes: tuple[str, ...] = ()
    """Where x_t is a sequence of patches: arguments with their number along each dimension, ([frames,] rows, columns)."""
    channel_dim: int = 1
    """Dimension of x_t that holds the channels."""
    negated: bool = False
    """A flow model that predicts data minus noise."""
    patch: int = 2
    """Side of a patch in latent pixels."""
    joint_mask: str | None = None
    """Argument with a mask over the text and then the image tokens, [batch, text + image]."""
    joint_ids: str | None = None
    """Argument with positions over the text and then the image tokens, [text + image, axes], 0 for the text."""
    packed: str | None = None
    """Argument with a mask [batch, text]; the image tokens of a row follow its own text without the padding."""
    lists: tuple[str, ...] = ()
    """Arguments with one tensor for each row; x_t among them: it, and the answer, are lists of one frame each."""
    row_dims: tuple[tuple[str, int], ...] = ()
    """Arguments whose batch is another dimension than the first, and which; conditions are given with rows first."""
    text_ids: tuple[int, int | None] | None = None
    """Width of `txt_ids`, and its column that numbers the text tokens, None where all are 0. Undeclared, a condition given
    as tensors must bring them."""
    optional: tuple[str, ...] = ("*.experts", "*.processor")
    """Submodules (fnmatch patterns) that some passes of a run go without: experts that no token is sent to, the keys of a
    picture whose scale is 0."""
    placed: bool | str = True
    """Its blocks, or what lies between them, see where tokens are (rotary positions, convolutions); False where positions
    are added before the first block alone; or the entry of the configuration that says so."""
    skips: bool = False
    """Later blocks read what earlier ones returned, so skipped ones hand on what they returned on the clean pass."""
    paired: bool = False
    """It answers for more than x_t (a sound), which the host combines by itself: no rows are ever spared."""
    references: bool = False
    """Reference images may follow the image in the making in its sequence: their tokens have another first coordinate in
    `grid_ids`, or sizes of their own."""
    layered: str | None = None
    """The entry of the configuration that, where true, says that of several sizes only the last is a reference."""
    in_place: bool = False
    """Its blocks write into the streams they are given, so what is recorded is copied."""
    encode: Encode | None = None
    """How prompts become its arguments; None: conditions by text are refused."""
    usual_text: int = 0
    """Text tokens of an ordinary call, for forecasts."""
    latent_pixels: int = 8
    """Image pixels along the side of a latent pixel, for forecasts."""
    usual_video: tuple[int, int, int] | None = None
    """Frames, height and width that its pipeline makes by default, for forecasts."""
    token_extent: tuple[int, int] = (1, 16)
    """Of a video: frames and pixels along a side of a token (the first frame is one too), for forecasts."""


@dataclass(frozen=True)
class Host:
    """One pipeline class: how it calls its network and how it combines the answers."""

    name: str
    """The class."""
    layout: Layout
    """Rows of its network call under CFG: one doubled call [negative, positive] or [positive, negative]; "calls", two calls
    tagged by `cache_context`; "calls-untagged", two calls with the same x_t, conditional first."""
    scale: str | None = "guidance_scale"
    """The argument that switches CFG on above `off`; None where it never evaluates unconditional rows."""
    off: float = 1.0
    """1, or 0 where the host combines cond + scale (cond - uncond)."""
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
    """The argument that holds the condition."""
    negative_prompt: str | None = "negative_prompt"
    """The argument that holds the unconditional one."""
    sized: bool = True
    """It takes height and width."""
    denoiser: str = "transformer"
    """The component that is the network."""
    distilled: str | None = None
    """The entry of the pipeline's or its network's configuration that, where set, leaves CFG out."""
    second: str | None = None
    """The component that, where it is there, is a second denoiser."""
    boundary: str | None = None
    """The entry of the configuration that says, as a share of the training steps, below which timestep `second` serves."""
    guider: str | None = None
    """The component that combines, and has the scale."""
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
    rescales: tuple[tuple[str, Any], ...] = ()
    """Arguments by which it rescales what it combined, and where each is off; off they are where we combine."""

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


@dataclass(frozen=True)
class Default:
    """Default parameters of one rule on one model."""

    values: dict[str, Any]
    """By the rule's field. Layers are block numbers, or fractions of the depth."""
    source: str
    """Where they come from, for docs and messages."""


@dataclass(frozen=True)
class Example:
    """One pretrained model, and the five lines that make it work."""

    title: str
    """Its name for a person."""
    name: str
    """Its hub id."""
    pipeline: str
    """The pipeline class."""
    small: str
    """The small pipeline of `emag.testing` that stands for it in tests."""
    call: str = ""
    """Arguments beside the prompt."""
    prompt: str = '"a lighthouse at dusk"'
    """What is asked for, as code."""
    rule: str = "emag.EMAG()"
    """The rule, as code."""
    output: str = "images"
    """The attribute of the answer that holds the pictures."""
    note: str = ""
    """What to know before using it."""

    @property
    def lines(self) -> str:
        """The five lines."""
        call = ", ".join(filter(None, (self.prompt, self.call)))
        return "\n".join(("import emag", f'pipe = emag.load("{self.name}")',
                          f"with emag.guide(pipe, {self.rule}) as run:",
                          f"    {self.output} = pipe({call}).{self.output}", "print(run)"))


@dataclass(frozen=True)
class Family:
    """Everything we know of one model family. `emag.register` adds one of your own."""

    title: str
    """Its name for a person."""
    networks: tuple[Backbone, ...] = ()
    """Its denoiser classes."""
    pipelines: tuple[Host, ...] = ()
    """The pipeline classes that drive them."""
    defaults: Mapping[str, Mapping[str, Default]] = field(default_factory=dict)
    """Defaults of rules, by network class (or the name of an embedded model, or "*"), then by the rule's name."""
    examples: tuple[Example, ...] = ()
    """Pretrained models, for docs and tests."""


# streams of a block and the order in which it returns them
SINGLE = (("hidden_states",), ("hidden_states",))
MERGED = SINGLE
DUAL = (("hidden_states", "encoder_hidden_states"),) * 2
JOINT = (("hidden_states", "encoder_hidden_states"), ("encoder_hidden_states", "hidden_states"))

RESCALE = (("guidance_rescale", 0.0),)

# arguments that give Flux its unconditional prompt, one set or the other
FLUX_NEGATIVE = (("negative_prompt",), ("negative_prompt_embeds", "negative_pooled_prompt_embeds"))

# candidate blocks as fractions of the depth; SD3's 6-8 of 24 and DiT's 12-15 of 28 are the published ones
EARLY, MIDDLE = (6 / 24, 7 / 24, 8 / 24), (12 / 28, 13 / 28, 14 / 28, 15 / 28)
SD3_WINDOW = Window.published(250, 50, 50)
DIT_WINDOW = Window.published(150, 50, 50, base=249)  # at the published 250 steps these are the step's indices themselves
SKIP = Interval(3.8, 0.01, 0.2, "progress")
