"""TexTailor: the text's tokens louder where some blocks take them in."""

from dataclasses import dataclass
from typing import Any, Literal

from ...core import Perturbation, Rows, State, Tokens
from ...errors import BadValue
from ...maths.streams import Streams
from ..common.inside import Inside
from ..common.text_stream import check_flow, text_name

TailoredRows = Literal["both", "cond"]


@dataclass(frozen=True)
class TailoredText(Perturbation):
    """Text tokens `first` to `last` times `factor` at the input of `layers`, in every pass."""

    layers: tuple[int, ...]
    factor: float
    rows: TailoredRows
    first: int
    last: int | None

    @property
    def changes(self) -> tuple[int, ...]:
        return self.layers

    @property
    def strong(self) -> bool:
        return True

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return TailoredState(self)


class TailoredState(State):
    """No memory."""

    proves = True

    def __init__(self, spec: TailoredText):
        super().__init__()
        self.spec = spec

    def enter(self, block: int, streams: Tokens, rows: Rows) -> Tokens:
        name = text_name(streams)
        text, mine = streams[name], rows.cond if self.spec.rows == "cond" else slice(None)
        new = text.clone()
        new[mine, self.spec.first:self.spec.last] *= self.spec.factor
        self.note((new != text).any())
        return {**streams, name: new}


@dataclass(frozen=True)
class TexTailor(Inside):
    """TexTailor: the text's tokens times a factor at the input of the blocks where meaning forms.

    For networks whose text is a stream that flows through the blocks (SD3, FLUX, Qwen-Image). Blocks normalise the
    text before they attend, so the factor acts by what is added to it: its own residual outweighs what the block adds.
    It works in every pass and leaves predictions to whatever combines.

    Args:
        factor: what text tokens are multiplied by, at least 0; 1 is off, 1.5 the authors' for FLUX.1 dev.
        layers: blocks, by number; None takes the model's. The authors' for FLUX.1 dev are 2, 7, 12, 17 and 22 of 57;
            on other networks their relative depth is an untested default.
        rows: "both" conditions, or the conditional one alone, "cond"; which one the authors mean is unconfirmed.
        first: first text token that is changed, at least 0.
        last: the token behind the last one; None is the end.

    >>> import emag
    >>> emag.TexTailor(1.5, layers=(2, 7)).perturbation.changes
    (2, 7)
    """

    factor: float = 1.5
    layers: tuple[int, ...] | None = None
    rows: TailoredRows = "both"
    first: int = 0
    last: int | None = None

    name = "textailor"
    paper = "arXiv 2601.02211"
    equation = "text <- k text, at the input of some blocks"
    cost = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 0 or self.first < 0 or (self.last is not None and self.last <= self.first):
            raise BadValue("textailor needs factor >= 0 and 0 <= first < last, got "
                           f"{self.factor}, {self.first}, {self.last}")

    @property
    def neutral(self) -> bool:
        return self.factor == 1

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        check_flow(self.name, network, self.layers or ())

    @property
    def perturbation(self) -> TailoredText:
        assert self.layers is not None
        return TailoredText(self.layers, self.factor, self.rows, self.first, self.last)

