"""VSF: the negative prompt's tokens beside the positive ones, their values with the sign turned."""

from dataclasses import dataclass

import torch

from ...core import Rows, Sdpa
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside, Keys, attend, has_moved, put_rows
from ..common.negative_text import AgainstText, NegativePass, NegativeText


@dataclass(frozen=True)
class FlippedText(AgainstText):
    """Image rows see further keys: the negative text, with -flip times its values and logits lowered by offset."""

    flip: float
    offset: float
    negative: NegativePass | None = None

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "FlippedState":
        return FlippedState(self)


class FlippedState(NegativeText):
    """Remembers the negative text of the step, and nothing else."""

    name = "vsf"

    def __init__(self, spec: FlippedText):
        super().__init__(spec.negative)
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live = sdpa(call.q)
        if rows.cond.start == rows.cond.stop:
            return live
        part, negative = call.rows(rows.cond), self.negative(block, call, rows)
        old = widened(live[rows.cond][:, :, call.image])
        share = widened(negative_share(part, negative, self.spec.offset))
        # (1 - g) O + g O-, with O- turned and scaled: one softmax over both sets of keys, without building it
        new = old + share * (-self.spec.flip * widened(attend(part, negative)) - old)
        self.note(has_moved(new, old))
        return put_rows(live, rows.cond, call.image, new)


def negative_share(call: Attention, negative: Keys, offset: float) -> torch.Tensor:
    """Share g of the negative keys in the joint softmax of the image queries, [B, H, image tokens, 1].

    With O the output over the call's own keys and O- over the negative ones, the joint output is (1 - g) O + g O-.
    """
    own = Keys.of(call, slice(0, call.k.shape[2]))
    # values of 0 for own keys and 1 for negative ones: what attention gives is the weight that falls on the negative ones
    ones = Keys(negative.k, torch.ones_like(negative.v), negative.bias() - offset)
    return attend(call, Keys(own.k, torch.zeros_like(own.v), own.mask).beside(ones))[..., :1]


@dataclass(frozen=True)
class VSF(Inside):
    """Value sign flip: show image tokens the negative prompt's tokens too, the sign of their values turned.

    Image rows of the conditional rows attend over [own keys, negative text] with one softmax. There the logits of the
    negative text are lowered by `offset` and its values multiplied by -`flip`. As published, image rows do not see the
    negative text unflipped, and the positive text sees neither of the two. The arXiv number of the paper is
    unconfirmed.

    The negative text is that of the unconditional rows at the same block and step, so a pipeline with both in one
    network call is needed (SD3, PixArt), or `negative`. The published form keeps the negative text as further rows of
    the same sequence, which see the conditional image; here it evolves in the unconditional rows, which are untouched.
    Published as a replacement for CFG: CFG(1.0) in the guidance makes it VSF alone; else the pipeline's CFG combines
    as well.

    Args:
        flip: the published s, any finite number. -1 with offset 0 is ordinary further tokens, 0 only draws attention
            away. None takes the model's.
        offset: what the logits of the negative text are lowered by, any finite number; large is off (a bias of -0.2 is
            offset 0.2). None takes the model's.
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention; None takes the model's.
        negative: the name of a condition ("prompt:a text") that gives the negative text in the place of the
            unconditional rows, at one more evaluation a step. None takes the unconditional rows.

    >>> import emag
    >>> emag.VSF(flip=3.5, offset=0.1, negative="prompt:blurry").equation
    'softmax([L, L- - offset]) [V, -s V-]'
    """

    flip: float | None = None
    offset: float | None = None
    layers: tuple[int, ...] | None = None
    cross: bool | None = None
    negative: str | None = None

    name = "vsf"
    cost = "none; with a negative named, one evaluation of the conditional rows a step"
    paper = "github weathon/VSF"
    equation = "softmax([L, L- - offset]) [V, -s V-]"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("flip", "offset"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, (int, float)) and abs(value) < float("inf")):
                raise BadValue(f"vsf {field} must be a finite number, got {value!r}")

    @property
    def perturbation(self) -> FlippedText:
        assert self.layers is not None and self.flip is not None and self.offset is not None
        source = NegativePass.named(self.negative, self.layers, bool(self.cross))
        return FlippedText(self.layers, bool(self.cross), self.flip, self.offset, source)
