"""The text tokens among the streams of a block."""

from typing import Any

from ...core import Tokens
from ...errors import Unsupported

TEXTS = ("text", "encoder_hidden_states")
"""What they are called: a part of the one stream of a block, or a stream of their own."""


def text_name(streams: Tokens) -> str:
    """The name of the text in the streams of a block that `flows`."""
    return next(name for name in TEXTS if name in streams)


def flows(block: Any) -> bool:
    """True where a block takes text tokens as a stream, or as a part of one."""
    return "text" in block.stack.tokens and (block.merged or TEXTS[1] in block.stack.streams)


def check_flow(name: str, network: Any, layers: tuple[int, ...]) -> None:
    """Raise `Unsupported` where no text flows through some of the blocks."""
    without = [at for at in layers if not flows(network.blocks[at])]
    if without:
        raise Unsupported(f"{name} needs a text that flows through the blocks (SD3, FLUX), and in blocks {without} of "
                          f"{network.backbone.name} none does")
