"""What every objective shares: targets that no gradient enters, errors by row, and rows whose condition was dropped."""

import torch

from ..errors import BadValue
from ..maths.vectors import per_sample, widened


def fixed(target: torch.Tensor) -> torch.Tensor:
    """A target: in at least fp32, and no gradient flows into it."""
    return widened(target.detach())


def row_errors(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square error of each row, [batch], of predictions [batch, ...]. Raises `BadValue` where the shapes differ."""
    if student.shape != target.shape:
        # torch would stretch one over the other, and the loss would still be a number
        raise BadValue(f"the student's prediction is {tuple(student.shape)} and its target {tuple(target.shape)}: they must "
                       "have one shape")
    return (widened(student) - fixed(target)).square().flatten(1).mean(1)


def undropped(guided: torch.Tensor, plain: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    """`guided` [batch, ...], but `plain` in the rows whose condition was dropped. dropped: [batch] bool; None: no row.

    A row without a condition has nothing to be guided towards: it keeps the null prediction where the data puts it.
    Raises `BadValue` for a mask of another kind.
    """
    if dropped is None:
        return guided
    if dropped.dtype != torch.bool or dropped.shape != guided.shape[:1]:
        raise BadValue(f"dropped says of each of {len(guided)} rows whether its condition was dropped: give a bool mask "
                       f"[{len(guided)}], got {dropped.dtype} {tuple(dropped.shape)}")
    return torch.where(per_sample(dropped, guided), plain, guided)
