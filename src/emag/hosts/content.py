"""Which text tokens of a prompt are its own."""

from collections.abc import Sequence
from typing import Any

import torch

from ..engine.reading import read_network
from ..errors import Unsupported
from .lookup import denoisers, host_of


def content_tokens(pipe: Any, prompts: str | Sequence[str]) -> torch.Tensor:
    """True at each text token that is a prompt's own, false at padding: [prompts, tokens], for `CDG`.

    Start and end tokens count as content, as in the authors' code. Raises `Unsupported` for a pipeline of which this package
    does not know how its tokenizers are put together.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    backbone = read_network(denoisers(pipe, host_of(pipe))[0]).backbone
    if backbone.content is None:
        raise Unsupported(f"which text tokens of {type(pipe).__name__} are padding is not known here: give the mask "
                          "yourself, bool [1 or images, text tokens], true at content")
    return backbone.content(pipe, texts)
