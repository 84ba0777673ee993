"""Gradient-free classifier guidance: the unconditional prediction from the class that a classifier takes the sample for."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, Access, Branches, Look, Perturbation, Step
from ...errors import BadValue, NoEffect, Unsupported
from ...maths.vectors import per_sample, relative_distance
from ..common.null_branch import NullBranch
from ..energy.numbers import scored

SAME = 1e-6
"""Relative distance of two predictions below which their conditions are one."""


@dataclass(frozen=True)
class GFCG(NullBranch):
    """Gradient-free classifier guidance: away from the class that the sample may be mistaken for.

    In each step a classifier scores the clean estimate of the conditional prediction, for every image apart. The rival of
    the highest score is the reference r, and u <- c + m (e(r) - c): what combines then has the scale 1 + m (w - 1). m is
    how confused the classifier is, m = (2 p)^power with p = P(r) / (P(y) + P(r)): 1 where the wanted class y and r are as
    likely, near 0 where there is no doubt. No gradient is taken, and any classifier will do. The reference as a conditional
    prediction that is chosen at each step, and a scale that follows the confusion, are the paper's; its formulas of both
    are unconfirmed, and these are ours.

    The evaluation under r is in the place of the unconditional one. Each step waits for the device, to look at the scores.

    Args:
        wanted: y: the class of the prompt, one for all images or one each.
        rivals: the classes that may be r; an image's own is passed over.
        prompt: the condition of a rival, its name in the place of {}: "prompt:a photo of a {}", or a name from
            emag.guide(..., conditions=...).
        score: the score that is the log probability of a class, its name in the place of {}: "classifier:{}" is the embedded
            classifier; others are given by emag.guide(..., scores={...}).
        power: how m follows the confusion, at least 0; 0 is m = 1: CFG away from r. 1 is an untested default.

    >>> import emag
    >>> emag.GFCG(("cat",), ("dog", "deer")).scores
    ('classifier:cat', 'classifier:dog', 'classifier:deer')
    """

    wanted: tuple[str, ...] | None = None
    rivals: tuple[str, ...] | None = None
    prompt: str = "prompt:a photo of a {}"
    score: str = "classifier:{}"
    power: float = 1.0

    name = "gfcg"
    paper = "arXiv 2411.15393"
    equation = "u <- c + m (e(r) - c), r = argmax_rivals P(r | x0), m = (2 P(r) / (P(y) + P(r)))^power"
    space = "x0"
    cost = "a decoding and a score for each class per step; its evaluation is in the place of the unconditional one"
    required = {"wanted": "gfcg=frog,rivals=cat+deer", "rivals": "gfcg=frog,rivals=cat+deer"}

    def __post_init__(self) -> None:
        for name in ("wanted", "rivals"):
            given = getattr(self, name)
            if given is not None and (isinstance(given, str) or not given or not all(isinstance(one, str) for one in given)):
                raise BadValue(f"gfcg {name} are names of classes, e.g. ('cat', 'deer'), got {given!r}")
        for name in ("prompt", "score"):
            if "{}" not in getattr(self, name):
                raise BadValue(f"gfcg {name} has the class in the place of {{}}, e.g. 'a photo of a {{}}', got "
                               f"{getattr(self, name)!r}")
        alone = next((y for y in self.wanted or () if self.rivals and not set(self.rivals) - {y}), None)
        if alone:
            raise BadValue(f"gfcg needs a rival of {alone!r} other than itself, got rivals {self.rivals}")
        if self.power < 0:
            raise BadValue(f"gfcg power must be at least 0, got {self.power}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The wanted classes and their rivals, each once."""
        return tuple(dict.fromkeys((*(self.wanted or ()), *(self.rivals or ()))))

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(self.score.replace("{}", name) for name in self.classes)

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(self.prompt.replace("{}", name) for name in self.rivals or ())

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return ()  # which condition it is, no list of branches can say: it is evaluated by `Access.under`

    @property
    def looks_further(self) -> bool:
        return True

    def looks(self, step: Step) -> tuple[Look, ...]:
        return (Look("cond", False),)

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if step.access is None:
            raise Unsupported("gfcg looks at the decoded image, which this host does not give: use emag.guide around a "
                              "diffusers pipeline, or emag.guided around a function")
        cond = branches[COND]
        with torch.no_grad():
            chosen, confusion = self._chosen(self._likely(cond, step.access, step))
        reference = step.access.under([self.named[at] for at in chosen])
        same = (relative_distance(reference, cond) < SAME).nonzero().flatten().tolist()
        if same:
            raise NoEffect(f"the reference of image {same[0]}, {self.named[chosen[same[0]]]!r}, is its own prompt: name as "
                           "wanted the class of the prompt, one for each image")
        # torch.lerp takes the end it is nearer to as its base: m = 1 is e(r) exactly
        return torch.lerp(cond, reference, per_sample(confusion**self.power, cond))

    def _likely(self, cond: torch.Tensor, access: Access, step: Step) -> torch.Tensor:
        """Log probabilities [classes, batch] of the clean estimate [batch, ...]."""
        images = access.decode(cond)
        return torch.stack([scored(access.score(name), images, repr(name), step) for name in self.scores])

    def _chosen(self, likely: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """Of log probabilities [classes, batch]: each image's reference, by its number among the rivals, and 2 p [batch]."""
        wanted, rivals, batch = self.wanted or (), self.rivals or (), likely.shape[1]
        if len(wanted) not in (1, batch):
            raise BadValue(f"gfcg names {len(wanted)} wanted classes for {batch} images: name one for all, or one each")
        each = wanted * batch if len(wanted) == 1 else wanted
        own = likely[[self.classes.index(y) for y in each], range(batch)]
        others = likely[[self.classes.index(rival) for rival in rivals]].clone()
        for row, y in enumerate(each):
            if y in rivals:
                others[rivals.index(y), row] = -torch.inf
        best, chosen = others.max(0)
        return chosen.tolist(), 2 * torch.sigmoid(best - own)
