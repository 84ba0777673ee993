"""Numbers of rules, schedules and samplers: finite everywhere, and numbers."""

import math
from dataclasses import fields

import pytest

import emag
from emag.errors import BadValue
from emag.lab.draw.columns import Column
from emag.lab.draw.sampling import DrawSettings
from emag.methods import METHODS
from emag.methods.combining.compose import Term
from emag.methods.common.values import hints_of
from emag.methods.emag.compat import Compat
from emag.records.recipe import from_data, parse
from emag.samplers import CORRECTORS, SOLVERS
from emag.schedules import SCHEDULES, Curve, Feedback
from tiny import CASES

KINDS = {**METHODS, **CORRECTORS, **SOLVERS, **SCHEDULES, "feedback": Feedback, "term": Term, "window": emag.Window,
         "compat": Compat}
NEEDED = {"spg": {"style": "x"}, "neg-to-me": {"reference": "x"}, "compose": {"terms": (Term(1.0, "cond"),)},
          "fkc-product": {"branches": ("a", "b")}, "w2sd": {"weak": None},
          "annealing": {"weights": "x"}, "term": {"scale": 1.0, "plus": "a"},
          "feedback": {"scale": 1.0, "score": len}}


def numeric(name):
    """Fields that hold numbers, and whether in a tuple."""
    hints = hints_of(KINDS[name])
    return {f.name: "tuple" in str(hints[f.name]) for f in fields(KINDS[name])
            if "float" in str(hints[f.name]) or "int" in str(hints[f.name])}


PLACES = [(name, field) for name in KINDS for field in numeric(name)]


@pytest.mark.parametrize(("name", "field"), PLACES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_in_every_field(name, field, value):
    many, needed = numeric(name)[field], NEEDED.get(name, {})
    for given in ((value,), (1.0, value)) if many else (value,):
        with pytest.raises(BadValue):
            KINDS[name](**{**needed, field: given})


@pytest.mark.parametrize(("name", "field"), PLACES)
def test_what_is_no_number_is_refused_in_words(name, field):
    for given in ("x", object(), {}, [object()]):
        if (name, field) != ("reverse-sde", "powers"):
            with pytest.raises(BadValue):
                KINDS[name](**{**NEEDED.get(name, {}), field: given})


def test_all_of_them_are_reached():
    assert len(PLACES) > 100 and ("emag", "agree") in PLACES and ("fdg", "scales") in PLACES


@pytest.mark.parametrize("make", [
    lambda: emag.CFG(scale=math.nan), lambda: emag.EMAG(1.5, agree=math.nan, every=2), lambda: emag.APG(eta=math.inf),
    lambda: parse("seg=1.5,sigma=inf"), lambda: parse("cfg=interval:nan"), lambda: from_data([{"cfg": {"scale": math.nan}}]),
    lambda: Column.parse("scale=nan"), lambda: Column.parse("scale=inf emag=1.5"), lambda: DrawSettings(scale=math.inf)])
def test_however_a_number_comes_in(make):
    with pytest.raises(BadValue):
        make()


def test_a_rule_of_somebody_else_is_checked_as_well():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Mine(emag.Rule):
        size: float = 1.0
        name = "mine"

    assert Mine(2).size == 2
    with pytest.raises(BadValue, match=r"mine size must be finite, got nan"):
        Mine(math.nan)
    with pytest.raises(BadValue, match=r"mine size must be a number, got Curve"):
        Mine(size=Curve(2.0))


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_so_is_the_scale_of_a_pipelines_own_guidance(scale):
    case = CASES["sd3"]
    pipe = case.pipe()
    with emag.guide(pipe, emag.EMAG(1.5, layers=(1,))), pytest.raises(BadValue, match="guidance_scale must be finite"):
        case.run(pipe, guidance_scale=scale)
