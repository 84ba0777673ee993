"""help() of every method teaches: one line, a line a field, cost, paper, equation, and an example that runs."""

import doctest
import sys
from dataclasses import fields

import pytest

import emag
from emag.core.docs import body_of, example_of, fields_of, summary_of
from emag.methods import METHODS
from emag.methods.tokens import TOKEN_METHODS
from emag.samplers import CORRECTORS, SOLVERS
from emag.schedules import SCHEDULES, Feedback

CLASSES = {cls.__name__: cls for table in (METHODS, TOKEN_METHODS, SCHEDULES, CORRECTORS, SOLVERS) for cls in table.values()}
CLASSES["Feedback"] = Feedback
each = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)


@each
def test_the_first_line_says_what_it_does(cls):
    line = summary_of(cls)
    assert line.endswith(".") and len(line) <= 110 and line[0].isupper()


@each
def test_every_field_has_a_line(cls):
    told = fields_of(cls)
    assert [field.name for field in fields(cls) if field.init and not told.get(field.name)] == []
    assert set(told) <= {field.name for field in fields(cls)}


@each
def test_facts_are_shown_and_stand_once(cls):
    for word, value in (("Cost", cls.cost), ("Paper", cls.paper), ("Equation", cls.equation)):
        assert not value or (cls.__doc__.count(f"\n{word}: ") == 1 and value in cls.__doc__)
    assert "Cost:" not in body_of(cls)


@each
def test_the_example_runs(cls):
    assert ">>>" in example_of(cls), "an example, see any other method"
    found = doctest.DocTestParser().get_doctest(example_of(cls), {"emag": emag}, cls.__name__, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    told = []
    assert runner.run(found, out=told.append).failed == 0, "".join(told)


def test_public_classes_are_at_home_where_the_stub_says():
    assert all((getattr(emag, name, None) or getattr(emag.tokens, name)) is cls for name, cls in CLASSES.items())
    assert "torch" in sys.modules
