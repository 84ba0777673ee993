"""Guidance before the head: the last state of a model's decoder, and what its head makes of another one."""

import copy
from typing import Any

import torch

from ..engine.undo import Undo, patch, undone
from ..errors import Unsupported


class HiddenStates:
    """The state that a model's head reads, at each pass, while `undo` is open; and logits of any other state.

    Weights of branches sum to 1, so that a guided state before affine heads gives the guided outputs of all heads (Eruku,
    arXiv 2510.23240): w (W h + b) + (1 - w) (W k + b) = W (w h + (1 - w) k) + b. What bends behind the head (a cap on
    logits) makes another distribution of it.
    """

    def __init__(self, model: Any, undo: Undo):
        self._model, self._decoder = model, text_decoder(model)
        self._out: Any = None
        self._call: dict[str, Any] = {}
        self._fresh = False
        undo.callback(self._decoder.register_forward_hook(self._note).remove)
        undo.callback(model.register_forward_pre_hook(self._remember, with_kwargs=True).remove)

    def take(self) -> torch.Tensor:
        """The last state of the latest pass, [rows, width], fp32. Raises `Unsupported` where a pass has shown none."""
        if not self._fresh:
            raise Unsupported(f"{type(self._model).__name__} does not show the state before its head here (compiled code, or"
                              " a loop that calls parts of the model): leave space='hidden' out")
        self._fresh = False
        state: torch.Tensor = self._out.last_hidden_state[:, -1].float()
        return state

    def logits(self, state: torch.Tensor) -> torch.Tensor:
        """What the model's head, and all that follows it, makes of a state [rows, width]: [rows, vocabulary], fp32."""
        out = copy.copy(self._out)
        out.last_hidden_state = state[:, None].to(self._out.last_hidden_state)

        # the latest call again, of the head alone: its decoder answers with the state
        def answered(undo: Undo) -> Any:
            patch(undo, self._decoder, "forward", lambda *args, **kwargs: out)
            return self._model(**self._call)

        kept = self._out
        logits: torch.Tensor = undone(answered).logits[:, -1].float()
        self._out, self._fresh = kept, False
        return logits

    def _remember(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._call = kwargs

    def _note(self, decoder: Any, args: Any, out: Any) -> None:
        self._out, self._fresh = out, hasattr(out, "last_hidden_state")


def text_decoder(model: Any) -> Any:
    """The module whose last state a model's head reads."""
    found = model
    while (inner := found.get_decoder()) is not found:
        found = inner
    if found is model:
        raise Unsupported(f"{type(model).__name__} has no decoder apart from its head: leave out space='hidden'")
    return found
