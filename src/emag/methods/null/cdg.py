"""Condition-degradation guidance: away from the same prompt with its content emptied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Perturbation, RunStart, State, Step, Tokens
from ...errors import BadValue
from ...maths.streams import Streams
from ..common.null_branch import NullBranch
from ..common.text_stream import check_flow, text_name


@dataclass(frozen=True)
class EmptyText(Perturbation):
    """The network under the null prompt, once a run, for what its text is at the input of the first block."""

    prompt: str

    @property
    def condition(self) -> str | None:
        return self.prompt

    @property
    def changes(self) -> tuple[int, ...]:
        return (0,)

    @property
    def ahead(self) -> bool:
        return True

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        return index == 0

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return EmptyTextState()


class EmptyTextState(State):
    """text: the embedded null prompt, [rows, tokens, channels]."""

    def __init__(self) -> None:
        super().__init__()
        self.text: torch.Tensor | None = None

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        self.text = streams[text_name(streams)].clone()
        return run(streams)


@dataclass(frozen=True)
class Emptied(Perturbation):
    """The conditional rows, the content tokens of their text replaced by the null prompt's at the input of `block`."""

    block: int
    mask: str
    empty: EmptyText

    @property
    def changes(self) -> tuple[int, ...]:
        return (self.block,)

    @property
    def resume(self) -> int:
        return self.block

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return EmptiedState(self)


class EmptiedState(State):
    """Reads the mask off the step, and the null prompt's text off its pass."""

    def __init__(self, spec: Emptied):
        super().__init__()
        self.spec = spec

    def meet(self, states: Mapping[Any, State]) -> None:
        found = states[self.spec.empty]
        assert isinstance(found, EmptyTextState)
        self.source = found

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        name = text_name(streams)
        assert self.source.text is not None and self.now is not None
        return run({**streams, name: emptied(streams[name], self.source.text, self.now.masks[self.spec.mask])})


def emptied(text: torch.Tensor, null: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """`text` [rows, tokens, channels] with the tokens of `null`, of that shape, where `content` [1 or rows, tokens] is true.

    Raises `BadValue` where the shapes are others.
    """
    if null.shape != text.shape or content.shape not in ((1, text.shape[1]), text.shape[:2]):
        raise BadValue(f"cdg needs a mask of content [1 or {len(text)}, {text.shape[1]} text tokens] and a null prompt as "
                       f"long, got {list(content.shape)} and {null.shape[1]} tokens")
    return torch.where(content.to(text.device).bool()[..., None], null.to(text.dtype), text)


@dataclass(frozen=True)
class CDG(NullBranch):
    """Condition-degradation guidance: the prediction under the same prompt, its content emptied, stands for u.

    Content are a prompt's own tokens; the padding behind them has taken up what the whole is about. At the input of
    one block the content's text is replaced by that of the null prompt, as embedded, and the padding stays; earlier
    blocks and the pooled text see the prompt. So what combines pushes along what the content adds to the rest. The
    authors' formula is CFG's. Their ratio is 1: all of the content and none of the padding, which needs no ranking.

    For networks whose text flows through the blocks and is embedded token by token (SD3, FLUX). Which
    tokens are content is a mask, true there: masks={"content": emag.content_tokens(pipe, prompts)}.

    Args:
        block: the block whose input is changed, at least 0: 1 published for SD3 and FLUX, 2 for SD3.5; 0 is unconfirmed.
        null: the condition whose tokens are put in, "prompt:" with an empty text, or a name from
            emag.guide(..., conditions=...).
        mask: the name of the mask, from emag.guide(..., masks=...), [1 or images, text tokens].

    >>> import emag
    >>> emag.CDG(block=2).perturbation.resume  # beside emag.CFG(7.0)
    2
    """

    block: int = 1
    null: str = "prompt:"
    mask: str = "content"

    name = "cdg"
    paper = "arXiv 2603.10780"
    equation = "u <- e(prompt with its content emptied at the input of a block)"
    cost = "none: its evaluation is in the place of the unconditional one; one of the null prompt a run"

    def __post_init__(self) -> None:
        if type(self.block) is not int or self.block < 0:
            raise BadValue(f"cdg block must be the number of a block, at least 0, got {self.block!r}")

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the masks that the user has to give."""
        return (self.mask,)

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        network.check_layers((self.block,))
        check_flow(self.name, network, (0, self.block))

    def fits_run(self, start: RunStart) -> None:
        mask, rows = start.first.masks.get(self.mask), len(start.first.x)
        text = (start.arguments or {}).get("encoder_hidden_states")
        tokens = text.shape[1] if isinstance(text, torch.Tensor) else None
        if mask is None or mask.ndim != 2 or len(mask) not in (1, rows) or tokens not in (None, mask.shape[1]):
            raise BadValue(f"cdg needs the mask {self.mask!r}, bool [1 or {rows}, {tokens or 'text'} tokens], true at "
                           f"content; got {None if mask is None else list(mask.shape)}")

    @property
    def perturbation(self) -> Emptied:
        return Emptied(self.block, self.mask, EmptyText(self.null))

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation.empty, self.perturbation)

    def unread(self, step: Step) -> tuple[Perturbation, ...]:
        return self.branches(step)[:-1]  # the null prompt is read once, whether or not this step needs u

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        return branches.get(self.perturbation)
