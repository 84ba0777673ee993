"""What we know of a denoiser class, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """One list of blocks.

    name: attribute of the network; a path of attributes with * for every entry of a list means all the lists it leads to.
    attention: the block's attention module that mixes image tokens. streams: block
    arguments that flow from block to block. returns: the same names, in the order in which a block returns them.
    tokens: what the attention sees along its sequence, in order: ("image",), ("image", "text") or ("text", "image");
    a stack of one stream with two kinds of tokens has both in it.
    cross: the block's attention module from image to text, where that is one of its own; cross_picture: an attribute of it
    that is there where it attends to a picture first, in a call of its own.
    linear: `attention` has no map, and makes no fused call. each_sample: it makes one for each sample, of the image tokens
    and those of the text that are not masked. middle: the blocks at the bottom of a network that narrows and widens again,
    which rules take where no layers are named. padded: the stream of the image may end in padding.
    """

    name: str
    attention: str
    streams: tuple[str, ...]
    returns: tuple[str, ...]
    tokens: tuple[str, ...]
    cross: str | None = None
    cross_picture: str | None = None
    linear: bool = False
    each_sample: bool = False
    middle: bool = False
    padded: bool = False


@dataclass(frozen=True)
class Backbone:
    """One denoiser class.

    per_row: arguments of the network whose first dimension is the batch (tensors, or lists and dicts of tensors).
    kwargs: its dict of extra attention arguments; kwargs_rows: entries in it whose first dimension is the batch.
    condition: arguments that a condition rule may change; "a.b" is entry b of the dict a. condition_modules: submodules
    (fnmatch patterns) whose outputs are the condition where the argument itself is not a float tensor. time_scale,
    time_offset: what its timestep is multiplied by, and what is then added, to give the scheduler's. grid_ids: argument
    with the (.., row, column) of each image token, where x_t is a sequence
    of patches, or a list per image of (frames, rows, columns); grid_at: where row and column sit in it; patch: the side
    of a patch in latent pixels. time_modules: submodules (fnmatch patterns) that embed the timestep.
    grid_sizes: arguments with the number of patches along each dimension, ([frames,] rows, columns), where x_t is a sequence
    of them. channel_dim: dimension of x_t that holds the channels. negated: of a flow model, it predicts data minus noise.
    joint_mask: argument with a mask over the text and then the image tokens, [batch, text + image]; joint_ids: one with
    their positions, [text + image, axes], where those of the text are 0.
    packed: argument with a mask [batch, text]; the image tokens of a row follow its own text without the padding.
    lists: arguments with one tensor for each row; x_t among them means that it, and the answer, are lists of one frame each.
    row_dims: arguments whose batch is another dimension than the first, and which; conditions are given with rows first.
    references: reference images may follow the image in the making in its sequence: their tokens have another first
    coordinate in `grid_ids`, or sizes of their own. layered: the entry of the configuration that, where true, says that of
    several sizes only the last is a reference, and those before it are layers in the making.
    text_ids: width of `txt_ids`, and its column that numbers the text tokens, None where all are 0; undeclared, a condition
    given as tensors must bring them.
    placed: its blocks, or what lies between them, see where tokens are (rotary positions, convolutions); False where
    positions are added before the first block alone; or the entry of the configuration that says so.
    paired: it answers for more than x_t (a sound), row by row, which the host combines by itself: no rows are ever spared.
    optional: submodules (fnmatch patterns) that some passes of a run go without: experts that no token is sent to, the keys
    of a picture whose scale is 0.
    skips: later blocks read what earlier ones returned, so skipped ones hand on what they returned on the clean pass.
    """

    name: str
    stacks: tuple[Stack, ...]
    per_row: tuple[str, ...]
    condition: tuple[str, ...] = ()
    condition_modules: tuple[str, ...] = ()
    kwargs: str | None = None
    kwargs_rows: tuple[str, ...] = ()
    sample: str = "hidden_states"
    text: str | None = "encoder_hidden_states"
    timestep: str = "timestep"
    time_scale: float = 1.0
    time_offset: float = 0.0
    time_modules: tuple[str, ...] = ()
    grid_ids: str | None = None
    grid_at: tuple[int, int] = (-2, -1)
    grid_sizes: tuple[str, ...] = ()
    channel_dim: int = 1
    negated: bool = False
    patch: int = 2
    joint_mask: str | None = None
    joint_ids: str | None = None
    packed: str | None = None
    lists: tuple[str, ...] = ()
    row_dims: tuple[tuple[str, int], ...] = ()
    text_ids: tuple[int, int | None] | None = None
    skips: bool = False
    optional: tuple[str, ...] = ("*.experts", "*.processor")
    placed: bool | str = True
    paired: bool = False
    references: bool = False
    layered: str | None = None


# streams of a block and the order in which it returns them
SINGLE = (("hidden_states",), ("hidden_states",))
MERGED = SINGLE
DUAL = (("hidden_states", "encoder_hidden_states"),) * 2
JOINT = (("hidden_states", "encoder_hidden_states"), ("encoder_hidden_states", "hidden_states"))
