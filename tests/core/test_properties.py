"""The laws of `emag.testing`, held against every rule, schedule and saver of rows.py; and that they have teeth."""

from dataclasses import replace

import pytest
import torch

import emag
from emag.methods import METHODS
from emag.schedules import SCHEDULES, Schedule
from emag.testing import LAWS, LawBroken, check, checks, trial
from rows import ROWS

CHECKS = [law for row in ROWS for law in checks(row)]
IN_TURN = ("sd3", "true-cfg", "pixart", "dit")
"""Of its four pipelines a row meets one in `make test`, the next row the next, and all four in `make test-long`."""


def pairs():
    """The laws, those on a row's other pipelines marked."""
    for number, row in enumerate(ROWS):
        held = list(checks(row))
        cases = {law.case for law in held} - {None}
        other = cases - {IN_TURN[number % 4]} if len(cases) == 4 else ()
        yield from (pytest.param(law, id=str(law), marks=pytest.mark.long if law.case in other else ()) for law in held)


@pytest.mark.parametrize("law", pairs())
def test_law(law):
    law()


def test_the_table_is_complete():
    held = {rule.name for row in ROWS for rule in row.rules}
    scales = [getattr(rule, "scale", None) for row in ROWS for rule in row.rules]
    schedules = {scale.name for scale in scales if isinstance(scale, Schedule)}
    assert held == set(METHODS)
    assert schedules | {"constant"} == set(SCHEDULES)


def test_every_law_is_held_and_says_what_it_is():
    assert {law.law for law in CHECKS} == set(LAWS)
    assert len({law.name for law in LAWS}) == len(LAWS) and all(law.text.endswith(".") for law in LAWS)


def test_the_table_leaves_nothing_to_fill_in():
    """Defaults of a model would make a rule another one on each pipeline."""
    assert all(getattr(rule, "scale", 0) is not None for row in ROWS for rule in row.rules)


# teeth: a rule that breaks one law is told by that law


class Mixing(emag.CFG):
    def apply(self, pred, branches, step, state):
        return super().apply(pred, branches, step, state) + (self.scale - 1) * pred.mean()


class Idle(emag.CFG):
    def apply(self, pred, branches, step, state):
        return pred


class Shifted(emag.CFG):
    """What it adds means another thing in each space."""

    def apply(self, pred, branches, step, state):
        return super().apply(pred, branches, step, state) + (self.scale - 1)


class Overflowing(emag.CFG):
    """Divides by a difference that may be 0."""

    def apply(self, pred, branches, step, state):
        difference = pred - branches["uncond"]
        return pred + (self.scale - 1) * difference / difference.abs().flatten(1).amax(1).view(-1, 1, 1, 1)


class Hoarding(emag.CFG):
    """Keeps its state on the class."""

    kept: list = []

    def apply(self, pred, branches, step, state):
        self.kept.append(1)
        return super().apply(pred, branches, step, state) * (1 + 1e-3 * len(self.kept))


class Drawing(emag.CFG):
    """Takes random numbers from torch's generator."""

    def apply(self, pred, branches, step, state):
        torch.rand(1)
        return super().apply(pred, branches, step, state)


class Clipped(emag.CFG):
    """At scale 1 no identity."""

    def apply(self, pred, branches, step, state):
        return super().apply(pred, branches, step, state).clamp(-0.1, 0.1)


BROKEN = {Mixing: "rows_do_not_see_each_other", Idle: "it_acts", Shifted: "all_spaces_give_one_result",
          Overflowing: "stays_finite", Clipped: "neutral_parameters_change_nothing", Drawing: "a_seed_is_its_samples_own"}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_rule_is_told_by_its_law(broken):
    subject = replace(trial(broken(3.0), broken(1.0), only=("sd3",)), raw=broken is Overflowing)
    held = [law for law in checks(subject) if law.law.name != "a_recipe_gives_it_back"]  # its name is another class's
    with pytest.raises(LawBroken, match=rf"breaks the law {BROKEN[broken]}.*Found: "):
        [law() for law in held]


def test_a_rule_that_remembers_is_told_by_its_law():
    broken = [law for law in checks(Hoarding(3.0), only=("sd3",)) if law.law.name == "a_second_run_starts_anew"]
    with pytest.raises(LawBroken, match="keeps anything from one run to the next"):
        broken[0]()


def test_a_sound_rule_passes():
    check(emag.CFG(3.0), emag.CFG(1.0), only=("sd3",))
