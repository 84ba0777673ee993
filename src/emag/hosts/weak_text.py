"""A prompt encoded with the attention of the text encoders at another temperature: the text side of ERG."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..engine.reading import read_network
from ..engine.undo import Undo, patch, undone
from ..errors import BadValue, Unsupported
from .given import encode_condition
from .lookup import host_of

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
QUERIES = ("q", "q_proj")


def weak_text(pipe: Any, prompt: str | Sequence[str], tau: float = 0.01,
              layers: tuple[int, ...] | None = None) -> dict[str, torch.Tensor]:
    """Network arguments of `prompt`, encoded with the logits of some attention layers multiplied by `tau`.

    ERG, arXiv 2504.13987, text side (C-ERG). tau: above 0; 1 is the plain encoding, below 1 is flatter; the paper's values
    per model are unconfirmed (0.01 is ACE-Step's). layers: of every encoder; None is its two middle ones, an untested
    default. Give the result to emag.guide(pipe, ERG(text="weak"), conditions={"weak": ...}). Queries are scaled where no
    norm follows them; position biases (T5) are not. Raises `Unsupported` where no encoder can be reached, and `BadValue`.
    """
    if not 0 < tau < float("inf"):
        raise BadValue(f"tau must be above 0 (1 is the plain encoding), got {tau}")
    encoders = [found for name in ENCODERS if (found := getattr(pipe, name, None)) is not None]
    attention = [layer for encoder in encoders for layer in _chosen(_layers(encoder), layers)]
    if not attention:
        raise Unsupported(f"{type(pipe).__name__} has no text encoder whose attention could be reached (layers with a query "
                          "projection q or q_proj and no norm behind it)")

    def encoded(undo: Undo) -> dict[str, torch.Tensor]:
        for query in attention:
            patch(undo, query, "forward", _scaled(query.forward, tau))
        host = host_of(pipe)
        return encode_condition(prompt, host, pipe, read_network(getattr(pipe, host.denoiser)))

    return undone(encoded)


def _layers(encoder: torch.nn.Module) -> list[torch.nn.Module]:
    """The query projections of an encoder, in order. A norm behind them would undo a scale: those are left out."""
    found = []
    for module in encoder.modules():
        query = next((getattr(module, name) for name in QUERIES if hasattr(module, name)), None)
        if isinstance(query, torch.nn.Module) and not any(hasattr(module, name) for name in ("q_norm", "norm_q")):
            found.append(query)
    return found


def _chosen(queries: list[torch.nn.Module], layers: tuple[int, ...] | None) -> list[torch.nn.Module]:
    if not queries:
        return []
    middle = len(queries) // 2
    numbers = layers if layers is not None else tuple(range(max(0, middle - 1), middle + 1))
    wrong = [number for number in numbers if not 0 <= number < len(queries)]
    if wrong:
        raise BadValue(f"text encoder layers {wrong} do not exist: there are 0 to {len(queries) - 1}")
    return [queries[number] for number in numbers]


def _scaled(original: Callable[..., torch.Tensor], factor: float) -> Callable[..., torch.Tensor]:
    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        return factor * original(*args, **kwargs)

    return forward
