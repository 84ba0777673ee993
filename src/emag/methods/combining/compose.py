"""Several conditions at once: a weighted sum of differences of named branches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...core import COND, UNCOND, Branches, Conditioned, FiniteFields, Perturbation, Rule, RunStart, Step, check_tokens
from ...errors import BadValue
from ...maths.masks import evaluate_mask, mask_names, read_mask
from ...schedules import Scale, Schedule, known, weight

Weight: TypeAlias = float | torch.Tensor
Net: TypeAlias = dict[str, dict[str | None, Weight]]
"""Weights by branch and mask."""

UNKNOWN = math.nan
ROUNDING = 1e-12  # weights that should cancel (1 - 3 times 1/3) count as 0 within this


@dataclass(frozen=True)
class Term(FiniteFields):
    """One difference of a `Compose`: scale m (plus - minus).

    Args:
        scale: any finite number, below 0 pushes away; or a schedule with its scale named. It multiplies the
            difference, so here 0 is off. A schedule that is off at 1 adds the plain difference there. One that
            measures predictions measures "cond" and "uncond".
        plus: name of the branch to go towards, as in `Compose`.
        minus: name of the branch to go away from.
        mask: where it acts, m, see `emag.maths.masks`; None is everywhere.

    >>> import emag
    >>> emag.Term(-1.5, "prompt:a hat").minus
    'uncond'
    """

    scale: Scale
    plus: str
    minus: str = UNCOND
    mask: str | None = None

    scalar = False

    def __post_init__(self) -> None:
        if isinstance(self.scale, Schedule):
            if self.scale.scale is None:
                raise BadValue(f"a term's schedule needs its scale, e.g. {type(self.scale).__name__}(4.0)")
        elif not isinstance(self.scale, (int, float)) or not math.isfinite(self.scale):
            raise BadValue(f"a term's scale must be a finite number or a schedule, got {self.scale!r}")
        _check_name(self.plus)
        _check_name(self.minus)
        if self.mask is not None:
            read_mask(self.mask)


@dataclass(frozen=True)
class Compose(Rule):
    """Composed conditions: a base, and weighted differences between any named branches.

    The general form of several papers, base + sum_j w_j m_j (plus_j - minus_j): join prompts, negate one, or guide
    each region of the image by its own. `emag.methods.combining.compositional` builds the published ones.

    Branches go by name: "cond" is the running prediction, "uncond" the unconditional one, any other a condition given
    as emag.guide(..., conditions={name: ...}), or "prompt:a text". Each of those costs one conditional evaluation a
    step, shared by all terms that name it, and none on steps where its weights add up to 0; nor is "uncond" evaluated
    there. Linear: the same in every space. Raises `BadValue` without a term.

    Args:
        base: name of the branch that the differences are added to.
        terms: a tuple of `Term`, at least one.

    >>> import emag
    >>> rule = emag.Compose("uncond", (emag.Term(7.5, "cond"), emag.Term(-1.5, "prompt:a hat")))
    >>> len(rule.weak)  # one evaluation a step beside the usual two
    1
    """

    base: str = UNCOND
    terms: tuple[Term, ...] = ()

    name = "compose"
    paper = "arXiv 2206.01714"
    equation = "base + sum_j w_j m_j (plus_j - minus_j)"
    kind = "combining"
    cost = "one conditional evaluation a step for each further condition with a weight"

    def __post_init__(self) -> None:
        _check_name(self.base)
        if not isinstance(self.terms, tuple) or not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise BadValue("compose needs a tuple of terms, e.g. Compose('uncond', (Term(7.5, 'cond'),))")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        constant = [UNKNOWN if isinstance(term.scale, Schedule) else term.scale for term in self.terms]
        return _given(_active(self._net(constant)))

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the masks that the user has to give."""
        return tuple(dict.fromkeys(name for term in self.terms if term.mask for name in mask_names(term.mask)))

    def fits_run(self, start: RunStart) -> None:
        for term in self.terms:
            if term.mask is not None:
                evaluate_mask(term.mask, start.first.x, start.first)

    def fits_tokens(self, timed: bool) -> None:
        if self.masks or any(term.mask is not None for term in self.terms):
            raise BadValue("compose masks are regions of an image, and tokens have none: leave them out")
        for term in self.terms:
            check_tokens(self.name, term.scale, timed)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return _given(_active(self._net(self._known(step))))

    def reads_null(self, step: Step) -> bool:
        before = self._known(step)
        return any(math.isnan(value) for value in before) or UNCOND in _active(self._net(before))

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        active = _active(self._net(self._known(step)))
        weights = [weight(term.scale, branches, step, state.setdefault(f"term {i}", {}), pred)
                   for i, term in enumerate(self.terms)] if active else []
        net, new = self._net(weights), pred
        for name in active:  # all weights add up to 1, so that g = p + sum of weight (branch - p)
            branch = branches[UNCOND if name == UNCOND else Conditioned(name)]
            new = new + _everywhere(net[name], pred, step) * (branch - pred)
        return new

    def _known(self, step: Step) -> list[float]:
        """Weights of the terms as far as they are known before the evaluation."""
        before = [known(term.scale, step) for term in self.terms]
        return [UNKNOWN if value is None else value for value in before]

    def _net(self, weights: Sequence[Weight]) -> Net:
        """What each branch but the running prediction weighs in all, by mask."""
        net: Net = {}
        shares: list[tuple[str, str | None, Weight]] = [(self.base, None, 1.0)]
        for term, value in zip(self.terms, weights):
            shares += [(term.plus, term.mask, value), (term.minus, term.mask, -value)]
        for name, mask, value in shares:
            # what COND weighs is 1 less all others, and is the running prediction itself: it is not counted
            if name != COND:
                at = net.setdefault(name, {})
                at[mask] = at.get(mask, 0.0) + value
        return net


def _active(net: Net) -> tuple[str, ...]:
    """The branches whose weight is, or may be, other than 0."""
    return tuple(name for name, at in net.items() if any(not abs(value) <= ROUNDING for value in at.values()))


def _given(active: Sequence[str]) -> tuple[Perturbation, ...]:
    return tuple(Conditioned(name) for name in active if name != UNCOND)


def _everywhere(at: dict[str | None, Weight], like: torch.Tensor, step: Step) -> Weight:
    """The weight of one branch at every place."""
    parts = [value if mask is None else value * evaluate_mask(mask, like, step) for mask, value in at.items()]
    return sum(parts[1:], start=parts[0])


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise BadValue(f"name a branch 'cond', 'uncond', 'prompt:a text' or as in conditions={{name: ...}}, got {name!r}")
