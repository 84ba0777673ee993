"""Arguments that go with a text: without them the host's own, of another text and length, would stay."""

from collections.abc import Callable

import torch

from ..errors import BadValue
from ..families import Backbone


def _ids(states: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Positions of text tokens, as the entry of the network declares them."""
    if backbone.text_ids is None:
        raise BadValue(f"{backbone.name} has positions for its text tokens, and its entry does not say which (text_ids): "
                       "give them with the condition, {'encoder_hidden_states': ..., 'txt_ids': ...}")
    width, numbered = backbone.text_ids
    ids = torch.zeros(states.shape[1], width)
    ids[:, list(numbered)] = torch.arange(states.shape[1], dtype=ids.dtype)[:, None]
    return ids


def whole_text(states: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """A mask that keeps every text token."""
    return torch.ones(states.shape[0], states.shape[backbone.text_dim])


COMPANIONS: dict[str, Callable[[torch.Tensor, Backbone], torch.Tensor]] = {
    "txt_ids": _ids,
    "encoder_attention_mask": whole_text,
    "encoder_hidden_states_mask": whole_text,
}
UNBATCHED = ("txt_ids",)
