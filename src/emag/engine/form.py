"""Arguments and answers of a network between the host's form and ours.

Ours: x_t and the prediction are one tensor, channels after the rows; all tensors have their rows first; flow predictions are
noise minus data.
"""

from typing import Any

import torch

from ..families import Backbone
from . import output


def to_ours(values: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The host's arguments in our form."""
    rows_first = {name: values[name].movedim(dim, 0) for name, dim in backbone.row_dims if values.get(name) is not None}
    x = values[backbone.sample]
    x = torch.stack(list(x)).squeeze(2) if backbone.sample in backbone.lists else output.move_dim(x, backbone.channel_dim, 1)
    return {**values, **rows_first, backbone.sample: x}


def to_hosts(values: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The inverse of `taken`."""
    moved = {name: values[name].movedim(0, dim) for name, dim in backbone.row_dims if values.get(name) is not None}
    x = values[backbone.sample]
    x = list(x.unsqueeze(2)) if backbone.sample in backbone.lists else output.move_dim(x, 1, backbone.channel_dim)
    return {**values, **moved, backbone.sample: x}


def answer_to_ours(answer: Any, backbone: Backbone) -> Any:
    """A network's answer in our form."""
    if backbone.sample in backbone.lists:
        answer = output.with_sample(answer, torch.stack(list(output.sample_of(answer))).squeeze(2))
    return output.move_dim(answer, backbone.channel_dim, 1, backbone.negated)


def answer_to_hosts(answer: Any, backbone: Backbone) -> Any:
    """The inverse of `answered`."""
    answer = output.move_dim(answer, 1, backbone.channel_dim, backbone.negated)
    if backbone.sample not in backbone.lists:
        return answer
    return output.with_sample(answer, list(output.sample_of(answer).unsqueeze(2)))
