"""The table of works: every object is there, every test is one, and a state is what the row shows."""

import re
from pathlib import Path

import pytest

from emag.lab.pages.works import STATES, found, works

TESTS = Path(__file__).parents[1]


def test_all_works_are_there_each_once():
    rows = works()
    assert list(rows) == list(range(1, 120)) and len({work.title for work in rows.values()}) == 119


@pytest.mark.parametrize("number", works())
def test_a_work_is_carried_and_proved(number):
    work = works()[number]
    carried = work.state in ("there", "partly", "function")
    assert work.state in STATES and carried == bool(work.objects) == bool(work.tests)
    assert work.state in ("there", "function") or work.note, "what is missing, or why is nothing built?"
    for name in work.objects:
        assert callable(found(name))
    for test in work.tests:
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (TESTS / file).read_text(), re.M), test


def test_a_test_speaks_of_what_it_proves():
    """The file of a proof names the object, by its class, its function or its name as a method."""
    for number, work in works().items():
        text = "".join((TESTS / test.partition("::")[0]).read_text() for test in work.tests)
        for name in work.objects:
            names = {name.rpartition(".")[2], str(getattr(found(name), "name", name))}
            assert any(word in text for word in names), (number, name)
