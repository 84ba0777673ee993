"""What a score is, for a rule that uses one, and whether what it gives is one number for each image."""

from collections.abc import Callable
from typing import Any

import torch

from ...core import Access, Part, Score, Step
from ...errors import BadValue, Unsupported
from ...maths.energies import called, check_scores

EXAMPLE = "colour:0.9:0.1:0.1"
"""A score by name, for errors and pages."""


def check_score_field(score: Any, who: str) -> None:
    """Raise `BadValue` for what can be no score. who: the rule in words."""
    if isinstance(score, type) or not (score is None or isinstance(score, str) or callable(score)):
        made = ", which is to be made first: " + f"{score.__name__}(...)" if isinstance(score, type) else ""
        raise BadValue(f"{who} score must be a function or the name of a score, got {score!r}{made}")


def accessed(step: Step, score: str | Score | None, who: str) -> tuple[Access, Score]:
    """What `step` gives the rule `who` beside predictions, and the score it asks for. Raises `Unsupported`, `BadValue`."""
    if step.access is None:
        raise Unsupported(f"{who} looks at a score of the decoded image, which this host does not give: use emag.guide "
                          "around a diffusers pipeline, or emag.guided around a function")
    found = step.access.score(score) if isinstance(score, str) else score
    if found is None:
        raise BadValue(f"{who} needs a score: a function of images [batch, 3, height, width] in [0, 1], or a name such as "
                       f"{EXAMPLE}")
    return step.access, found


def sighted(access: Access, score: Score, x0: torch.Tensor) -> tuple[torch.Tensor, Score]:
    """What `score` is to see of clean samples x0, and the function of that: of a video, its frames alone are decoded."""
    part = getattr(score, "part", None)
    if not isinstance(part, Part):
        return access.decode(x0), score
    of: Any = score
    return access.decode(x0, part), of.of


def scored(score: Callable[[torch.Tensor], Any], images: torch.Tensor, label: str, step: Step) -> torch.Tensor:
    """The score [batch] of `images` [batch, ...]. Raises `BadValue` for what is no number for each, or not finite."""
    return check_scores(called(score, images, label), len(images), label, f"step {step.index + 1} of {step.count}")
