"""A guidance as text, as rules and as controls; what a model refuses; what a run costs, before it and after it."""

from dataclasses import fields, replace

import pytest

import emag
from emag.core import Schedule
from emag.errors import BadValue, EmagError
from emag.hosts import load
from emag.lab.draw.sampling import DrawSettings
from emag.lab.web import palette
from emag.lab.web.controls import controls
from emag.lab.web.job import Ask
from emag.lab.web.model import Model, example_rules, opened
from emag.lab.web.price import price
from emag.lab.web.stack import changed, moved, parse, short, text_of, without
from emag.methods import METHODS
from emag.records.named import recipes
from emag.schedules import Window

TEXTS = ("emag=1.5 seg=1.2", "cads emag=1.5,variant=map,layers=2-4 apg=4,eta=0.5", "cfg=interval:scale=4:high=1.6",
         "emag=1.5,window=published:250:50:50:base=500:hold", "pag=2,layers=auto", "fdg=4+2.5",
         "'negative=2,negative=prompt:a photo of a deer'", "emag=1.5,layers=1+5", "")


@pytest.fixture(scope="module")
def model():
    return opened("tiny")


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_rules_are_one(text):
    rules = parse(text)
    assert parse(text_of(rules)) == rules and text_of(parse(text_of(rules))) == text_of(rules)


def test_every_named_recipe_and_every_usual_form_has_a_text():
    usual = {name: rules for name, rules in example_rules().items() if name != "compose"}
    for rules in (*(one.rules for one in recipes.values()), *usual.values()):
        assert parse(text_of(rules)) == rules
    with pytest.raises(BadValue, match="no short form"):
        text_of(example_rules()["compose"])  # it is made of terms


@pytest.mark.parametrize(("text", "said"), [("emag=1.5 nosuch", "no method 'nosuch'"), ("'emag", "not closed"),
                                            ("emag=x", "scale=x"), ("pag " * 17, "at most 16"), ("p" * 5000, "at most")])
def test_a_text_that_says_nothing_is_refused_in_one_line(text, said):
    with pytest.raises(BadValue, match=said) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_a_text_with_commas_blanks_and_marks_in_it_is_read_back():
    rule = emag.Negative(2.0, 'prompt:a "red" ship, at night')
    assert short(rule) == 'negative=2,negative="prompt:a ""red"" ship, at night"'
    assert parse(text_of([rule, emag.CFG(2.0)])) == (rule, emag.CFG(2.0))
    assert parse("'negative=2,negative=prompt:a photo of a deer' cfg=2") == (emag.Negative(2.0, "prompt:a photo of a deer"),
                                                                            emag.CFG(2.0))


def test_rules_move_go_and_change():
    rules = parse("cads emag=1.5 apg=4")
    assert text_of(moved(rules, 2, -1)) == "cads apg=4 emag=1.5" and moved(rules, 0, -1) == rules == moved(rules, 2, 1)
    assert sorted(map(str, moved(rules, 0, 2))) == sorted(map(str, rules)) and text_of(without(rules, 1)) == "cads apg=4"
    assert text_of(changed(rules, 1, "variant", "map")) == "cads emag=1.5,variant=map apg=4"
    with pytest.raises(BadValue, match="beta must lie in"):
        changed(rules, 1, "beta", 2.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_control_has_words_and_ends_that_the_rule_takes(model, name):
    """Neither is written here: both come of the rule, so each must hold for it."""
    try:
        rule = METHODS[name]()
        shown = model.resolved([rule])[0]
    except (EmagError, TypeError):
        pytest.skip("needs a value that nobody can guess")
    found = controls(rule, shown)
    assert [one.field for one in found] == [one.name for one in fields(rule)]
    for one in found:
        assert one.about
        if one.kind == "slider":
            assert one.low <= one.value <= one.high
            for end in (one.low, one.high):
                replace(rule, **{one.field: end})
        if one.kind == "choice":
            assert one.value in one.choices and len(one.choices) > 1


def test_controls_know_choices_ranges_and_the_defaults_of_the_model(model):
    rule = emag.EMAG()
    found = {one.field: one for one in controls(rule, model.resolved([rule])[0])}
    assert found["variant"].choices == ("query", "map", "image", "text") and found["layers"].value == "2-4"
    assert (found["beta"].low, found["beta"].high) == (0, 1) and found["scale"].value == 1.05
    assert found["maps"].choices == ("auto", "float32", "scaled16", "scaled8")  # idle beside "query", and yet words of it
    assert isinstance(rule.window, Window | None) and found["window"].kind == "text"


def test_no_control_where_any_word_is_taken(model):
    found = {one.field: one for one in controls(emag.Negative(2.0, "prompt:x"))}
    assert found["negative"].kind == "text" and found["scale"].kind == "slider"
    scheduled = emag.CFG(emag.Interval(4.0, high=1.6))
    assert isinstance(scheduled.scale, Schedule) and controls(scheduled)[0].kind == "text"


def test_what_a_model_refuses_is_what_guide_refuses(model):
    """Greyed with a reason, for exactly those methods that cannot be drawn."""
    assert "moves tokens about" in model.refused["tpg"] and "second network" in model.refused["autoguidance"]
    assert not {"emag", "seg", "cfg", "apg", "rescale"} & set(model.refused) and set(model.refused) <= set(METHODS)
    with pytest.raises(emag.Unsupported) as error, emag.guide(model.pipe, *example_rules()["tpg"]):
        pass
    assert str(error.value) == model.refused["tpg"]
    listed = palette.html(model.refused)
    assert listed.count("disabled") == len(model.refused) and listed.count("<button") == len(METHODS)


def test_the_list_is_text_whatever_a_reason_says():
    assert "<script>" not in palette.html({"emag": "<script>alert(1)</script>"})


@pytest.mark.parametrize("text", ["emag=1.5", "emag=1.5 seg=1.2", "apg=4", "", "cfg=interval:scale=4:high=0.6"])
def test_the_price_before_a_run_is_what_the_run_evaluates(model, text):
    ask = Ask(model.example, parse(text), settings=DrawSettings(steps=5))
    told = price(model, ask.rules, ask.jobs[0], ask.settings)
    if not text:
        assert told.evaluations == told.plain and told.extra == 0
        return
    with emag.guide(model.pipe, *ask.rules) as run:
        model.pipe(model.example, num_inference_steps=5)
    assert (run.stats.evaluations, run.stats.clean) == (told.evaluations, told.plain)


@pytest.mark.parametrize(("text", "scale", "said"), [
    ("cfg=2 apg=4", 2.5, "both combine"), ("rescale", 2.5, "combining rule"), ("icg", 1.0, "unconditional"),
    ("emag=1.5,layers=99", 2.5, "99")])
def test_the_price_says_what_would_be_refused(model, text, scale, said):
    ask = Ask(model.example, parse(text), settings=DrawSettings(4, scale))
    with pytest.raises((BadValue, emag.Unsupported), match=said):
        price(model, ask.rules, ask.jobs[0], ask.settings)


@pytest.mark.parametrize("given", [{"prompt": "x" * 5000}, {"seeds": ()}, {"seeds": (-1,)}, {"seeds": tuple(range(99))},
                                   {"settings": DrawSettings(10**6)}, {"settings": DrawSettings(4, height=10**5)}])
def test_what_a_page_may_ask_for_is_bounded(given):
    with pytest.raises(BadValue):
        Ask(**{"prompt": "a photo of a ship", **given})


def test_a_model_knows_how_it_is_called(model):
    assert isinstance(model, Model) and (model.steps, model.scale) == (28, 2.5)
    assert model.pipe._progress_bar_config["disable"] and load.MODELS
