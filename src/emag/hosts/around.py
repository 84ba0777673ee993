"""What cannot stand beside a rule that works around attention modules as a whole."""

from collections.abc import Sequence

from ..core import Perturbation, Rule
from ..errors import Unsupported


def check_around(rules: Sequence[Rule]) -> None:
    """Raise `Unsupported` for what would work inside such a module, or be evaluated beside what keeps answers."""
    held = [(rule.name, branch) for rule in rules for branch in rule.weak]
    for name, mine in held:
        for other, branch in held if mine.around else ():
            if branch is not mine:
                _check_pair(name, mine, other, branch)


def _check_pair(name: str, mine: Perturbation, other: str, branch: Perturbation) -> None:
    inside = {*(branch.blocks if mine.around_cross or not branch.cross else ()), *branch.around}
    if shared := sorted(inside.intersection(mine.around)):
        raise Unsupported(f"{name} gives the attention of blocks {shared} other tokens, or none, and {other} works inside "
                          "it: name other layers for one of the two")
    if branch.copies > 1:
        raise Unsupported(f"{other} evaluates parts of the image as images of their own, which {name} would take for the "
                          "whole one: leave one of the two out")
    if mine.lone and not (branch.observes or branch.strong):
        raise Unsupported(f"{name} serves attention that it kept from earlier steps, and the weak pass of {other} would be "
                          "given the clean one's: leave one of the two out")
