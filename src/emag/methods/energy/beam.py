"""The search of TFG for its strengths: a beam over rho, mu and the smoothing, by what runs with them score."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...errors import BadValue
from .rule import Energy

FACTORS = {"strength": (2.0, 0.5, 8.0), "mean": (2.0, 0.5, 8.0), "smooth": (10.0, 0.01, 10.0)}
"""By field of `Energy` (rho, mu, gamma): what a child multiplies it by, and its least and largest value; the authors'."""


def beam(measure: Callable[[Energy], float], start: Energy, width: int = 2, rounds: int = 4) -> tuple[Energy, float]:
    """The settings that `measure` likes best, and their value: the beam search of TFG, arXiv 2409.15761.

    In each round every setting in the beam has three children, each with one of strength, mean and smooth multiplied by 2, 2
    or 10, as far as their range goes; the `width` best of all that was ever tried go on. It ends after `rounds`, or where
    there is no new child. Nothing is measured twice, and the result is never worse than the start.

    measure: how good a run with such settings is, higher is better: the mean score of some images, by a judge that does
    not steer. The authors draw 64 for each. Raises `BadValue` for a beam of no width, and for a start that a factor cannot
    move: of strength, mean and smooth at least one must be in its range.
    """
    if width < 1 or rounds < 1:
        raise BadValue(f"a beam needs a width and rounds of at least 1, got {width} and {rounds}")
    if not any(True for _ in _children(start)):
        raise BadValue("none of strength, mean and smooth of the start can be multiplied within "
                       + ", ".join(f"{name} {low:g} to {high:g}" for name, (_, low, high) in FACTORS.items()))
    found = {start: measure(start)}
    held = [start]
    for _ in range(rounds):
        new = [child for child in dict.fromkeys(child for one in held for child in _children(one)) if child not in found]
        if not new:
            break
        found |= {child: measure(child) for child in new}
        # of equals the one that was tried first, so that a search comes out the same each time
        held = sorted(found, key=lambda rule: -found[rule])[:width]
    best = max(found, key=lambda rule: found[rule])
    return best, found[best]


def _children(rule: Energy) -> Iterator[Energy]:
    for name, (factor, low, high) in FACTORS.items():
        value = getattr(rule, name)
        if low <= value and value * factor <= high:
            yield replace(rule, **{name: value * factor})
