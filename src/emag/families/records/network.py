"""One denoiser class: where its blocks are, and what its arguments mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
"""Network arguments by name, rows first."""

Encode = Callable[[Any, list[str]], Tensors]
"""(pipeline, prompts) -> the arguments its network takes for them, one row each."""

Content = Callable[[Any, list[str]], torch.Tensor]
"""(pipeline, prompts) -> bool [prompts, text tokens], true at what is no padding."""


@dataclass(frozen=True)
class Stack:
    """One list of blocks of a network."""

    name: str
    """Attribute of the network; a path with * for every entry of a list means all the lists, or blocks, it leads to."""
    attention: str
    """The block's attention module that mixes image tokens; "" where the block is that module and nothing else."""
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
    sequence_first: bool = False
    """Its streams are [tokens, rows, channels]."""
    keys: tuple[str, ...] = ()
    """What its keys are along their sequence, where its queries are the image's alone and its keys are not. A block whose
    module says `only_cross_attention`, or of itself that it has no `self_attn`, has the text's alone."""
    to_itself: bool = False
    """`attention` is given the image as its context, so that its module says of itself that it attends to another one."""
    apart: bool = False
    """`attention` makes calls of their own for text and for the image tokens; `keys` says what those of the image see."""
    rowless: bool = False
    """Its streams are [tokens, channels], of the one sample of a call."""
    spatial: bool = False
    """Its streams are [rows, channels, height, width]."""
    marked: str | None = None
    """An attribute that only modules of this kind have: others in the list are no blocks of this stack."""
    places: tuple[int, ...] = ()
    """Where the streams sit among the arguments by place, of a block whose forward does not name them."""
    mapless: str = "is linear: it has no map to change and makes no fused call"
    """What is said of a `linear` attention where a rule asks for its map."""

    @property
    def sees_text(self) -> bool:
        """True where image tokens see text in `attention`."""
        return len(self.keys or self.tokens) > 1


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
    grid_coords: str | None = None
    """Where x_t is a sequence of patches and nothing tells its sides: the argument with positions [rows, axes, tokens]."""
    sound: bool = False
    """x_t is a sequence in time, [rows, length, channels], of patches along it: a grid of one row."""
    channels: str = "out_channels"
    """The entry of the configuration that counts the channels of x_t."""
    variance: str = ""
    """A class (fnmatch pattern) among its `down_block_types` where the second half of the channels it returns is a learnt
    variance."""
    channel_dim: int = 1
    """Dimension of x_t that holds the channels."""
    negated: bool = False
    """A flow model that predicts data minus noise."""
    patch: int = 2
    """Side of a patch in latent pixels."""
    filled: bool = False
    """What of x_t is no whole patch at its edge is filled up to one."""
    text_dim: int = 1
    """Dimension of its text that counts tokens."""
    joint_mask: str | None = None
    """Argument with a mask over the text and then the image tokens, [batch, text + image]."""
    joint_ids: str | None = None
    """Argument with positions over the text and then the image tokens, [text + image, axes], 0 for the text."""
    packed: str | None = None
    """Argument with a mask [batch, text]; the image tokens of a row follow its own text without the padding."""
    lists: tuple[str, ...] = ()
    """Arguments with one tensor for each row; x_t among them: it, and the answer, are lists of one frame each."""
    behind: bool = False
    """Its answer may have tokens of the text in front of those of x_t."""
    lone: bool = False
    """Of `lists`, x_t and the answer: they have one sample for a call, [1, channels, ...]."""
    framed: bool = False
    """Its blocks see each frame of x_t [rows, channels, frames, ...] as a row of its own, those of a sample one after
    another."""
    frame_rows: tuple[str, ...] = ()
    """Of a framed network: arguments with one row for each frame (tensors, or lists of them)."""
    frame_copies: tuple[str, ...] = ()
    """Those whose rows are the same for all frames of a sample; a condition is given once for each sample."""
    row_dims: tuple[tuple[str, int], ...] = ()
    """Arguments whose batch is another dimension than the first, and which; conditions are given with rows first."""
    text_ids: tuple[int, tuple[int, ...]] | None = None
    """Width of `txt_ids`, and its columns that number the text tokens, () where all are 0. Undeclared, a condition given
    as tensors must bring them."""
    optional: tuple[str, ...] = ("*.experts", "*.processor")
    """Submodules (fnmatch patterns) that some passes of a run go without: experts that no token is sent to, the keys of a
    picture whose scale is 0."""
    placed: bool | str = True
    """Its blocks, or what lies between them, see where tokens are (rotary positions, convolutions); False where positions
    are added before the first block alone; or the entry of the configuration that says so."""
    unordered: bool = False
    """The self-attention of its blocks sees image tokens as a set: it is not told where they are, nor how many."""
    skips: bool = False
    """Later blocks read what earlier ones returned, so skipped ones hand on what they returned on the clean pass."""
    paired: bool = False
    """It answers for more than x_t (a sound), which the host combines by itself: no rows are ever spared."""
    references: bool = False
    """Reference images may follow the image in the making in its sequence: their tokens have another first coordinate in
    `grid_ids`, or sizes of their own; or they are what is more than `grid_sizes` count."""
    layered: str | None = None
    """The entry of the configuration that, where true, says that of several sizes only the last is a reference."""
    early_head: str = "early_head"
    """The submodule that gives a trained intermediate prediction, in the form of the network's answer, where it has one."""
    in_place: bool = False
    """Its blocks write into the streams they are given, so what is recorded is copied."""
    unserved: tuple[tuple[str, str], ...] = ()
    """Arguments with which a call cannot be served, and why."""
    encode: Encode | None = None
    """How prompts become its arguments; None: conditions by text are refused."""
    content: Content | None = None
    """Which text tokens of prompts are no padding; None: not known."""
    image_prompt: str | None = None
    """The argument with the image prompt of an IP-Adapter; "a.b" is entry b of the dict a."""
    image_prompts: bool = True
    """It is a list, of a tensor for each adapter."""
    usual_text: int = 0
    """Text tokens of an ordinary call, for forecasts."""
    latent_pixels: int = 8
    """Image pixels along the side of a latent pixel, for forecasts."""
    usual_video: tuple[int, int, int] | None = None
    """Frames, height and width that its pipeline makes by default, for forecasts."""
    token_extent: tuple[int, int] = (1, 16)
    """Of a video: frames and pixels along a side of a token (the first frame is one too), for forecasts."""
