"""The network's answer: its sample, the rows and channels that are a prediction, and putting new ones in."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def sample_of(answer: Any) -> torch.Tensor:
    """The tensor in what a network returned: a tuple, an output object with `sample`, or a tensor."""
    if isinstance(answer, torch.Tensor):
        return answer
    return answer[0] if isinstance(answer, tuple) else answer.sample


def with_sample(answer: Any, sample: torch.Tensor) -> Any:
    """The same answer with another tensor in it."""
    if isinstance(answer, torch.Tensor):
        return sample
    if isinstance(answer, tuple):
        return (sample, *answer[1:])
    return type(answer)(**{**answer, "sample": sample})


def move_dim(answer: Any, source: int, to: int, negated: bool = False) -> Any:
    """The same answer with dimension `source` of its sample at `to`, a view; or with its sign changed as well."""
    if source == to and not negated:
        return answer
    sample = sample_of(answer).movedim(source, to)
    return with_sample(answer, -sample if negated else sample)


def guided_channels(sample: torch.Tensor, x: torch.Tensor) -> int | None:
    """Channels that are a prediction: those of x_t where the network returns more (a learned variance), else all.

    Of a sequence these are tokens: more are returned where reference images are behind x_t.
    """
    return x.shape[1] if sample.ndim == x.ndim and sample.shape[1] > x.shape[1] else None


def branch(sample: torch.Tensor, rows: slice, channels: int | None) -> torch.Tensor:
    """Prediction of some rows, fp32."""
    return sample[rows, :channels].float()


def with_rows(sample: torch.Tensor, new: Sequence[tuple[slice, torch.Tensor]], channels: int | None) -> torch.Tensor:
    """A copy of `sample` with each prediction (cast once) in its rows."""
    sample = sample.clone()
    for rows, pred in new:
        sample[rows, :channels] = pred.to(sample.dtype)
    return sample


def distance(weak: Mapping[Any, torch.Tensor], cond: torch.Tensor) -> torch.Tensor:
    """|cond - weak| / |cond| per sample, the largest over the weak branches; on the device."""
    size = cond.flatten(1).norm(dim=1).clamp(min=1e-12)
    return torch.stack([(cond - w).flatten(1).norm(dim=1) / size for w in weak.values()]).amax(0)
