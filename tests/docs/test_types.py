"""The types that users see: choices are checked as they are typed, and README reads well to a type checker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import emag
from emag.core.fields import FiniteFields, choices_of
from emag.errors import BadValue
from emag.methods import METHODS
from emag.methods.common.values import from_text, hints_of, make_value
from emag.methods.emag.compat import PRESETS, Compat, Preset
from emag.schedules import SCHEDULES, Window
from emag.schedules.curves import SHAPES, CurveShape
from tiny import sd3, sd3_call

ROOT = Path(__file__).parents[2]
KINDS = {**METHODS, **SCHEDULES, "window": Window, "compat": Compat}
FEW = [(name, field, among) for name, kind in KINDS.items() for field, hint in hints_of(kind).items()
       if (among := choices_of(hint)) is not None]


@dataclass(frozen=True)
class Made(FiniteFields):
    word: Literal["a", "b"] | None = "a"
    count: Literal[0, 1] = 0
    other: Literal["a"] | float = "a"


def test_there_are_choices():
    assert len(FEW) >= 20 and ("emag", "variant", ("query", "map", "image", "text")) in FEW


@pytest.mark.parametrize(("name", "field", "among"), FEW, ids=[f"{name}-{field}" for name, field, _ in FEW])
def test_another_word_is_refused_with_those_that_are_known(name, field, among):
    told = f"{name} {field} must be one of {', '.join(map(str, among))}, got 'nothing'"
    for made in (lambda: KINDS[name](**{field: "nothing"}), lambda: make_value(name, KINDS[name], {field: "nothing"})):
        with pytest.raises(BadValue) as error:
            made()
        assert str(error.value) == told


@pytest.mark.parametrize(("name", "field", "among"), FEW, ids=[f"{name}-{field}" for name, field, _ in FEW])
def test_the_words_of_the_short_form_are_those_of_the_type(name, field, among):
    hint = hints_of(KINDS[name])[field]
    assert [from_text(field, str(value), hint) for value in among] == list(among)


def test_what_a_literal_allows_beside_its_values():
    assert [choices_of(hint) for hint in hints_of(Made).values()] == [("a", "b", None), (0, 1), None]
    assert Made(None, 1, 2.5) == Made(word=None, count=1, other=2.5)
    for wrong in ({"word": "c"}, {"count": True}, {"count": 2}, {"word": 0}):
        with pytest.raises(BadValue, match="must be one of"):
            Made(**wrong)


def test_tables_have_an_entry_for_each_word():
    assert set(PRESETS) == set(choices_of(Preset)) and set(SHAPES) == set(choices_of(CurveShape))


def test_what_a_run_did_is_told_after_one_and_refused_in_words_before():
    pipe = sd3()
    with emag.guide(pipe, emag.SLG(1.5, layers=(1,))) as run:
        with pytest.raises(BadValue, match="no finished run to tell of yet: call the pipeline inside the with block"):
            _ = run.stats
        pipe(**sd3_call())
    assert run.stats is run.latest and run.stats.effect > 0
    with emag.guide(pipe, emag.SLG(1.0, layers=(1,))) as run:
        pipe(**sd3_call())
    assert run.latest is None
    for handle in (run, emag.EmagGuider(emag.SLG(1.0))):
        with pytest.raises(BadValue, match="no rule is active"):
            _ = handle.stats


def test_the_package_says_that_it_is_typed():
    assert (Path(emag.__file__).parent / "py.typed").exists()
