"""What the list greys: methods that cannot work on a model, or with the rules that are there, by the checks of a run."""

import logging

import pytest

import emag
from emag.errors import EmagError
from emag.lab.draw.sampling import DrawSettings, Job
from emag.lab.web import palette
from emag.lab.web.adding import added, apart
from emag.lab.web.model import example_rules, opened
from emag.lab.web.stack import parse, text_of

pytestmark = pytest.mark.sampled(2)

STACKS = ("", "emag=1.5", "cfg=2", "seg=1.2 apg=4", "ag", "cfg=2 rescale")


@pytest.fixture(scope="module")
def model():
    return opened("tiny")


def call_of(model, scale=2.5):
    return model.call(Job(model.example, None, 0), DrawSettings(4, scale))


@pytest.mark.slow
@pytest.mark.parametrize("text", STACKS)
def test_what_is_greyed_is_what_a_run_refuses_at_every_place(model, text):
    """And what is not can be added, and runs."""
    rules, call = parse(text), call_of(model)
    greyed = apart(model, rules, call)
    for name, new in example_rules().items():
        if name in model.refused:
            continue
        if name not in greyed:
            model.check(added(model, rules, name, call), call)
            continue
        for at in range(len(rules) + 1):
            with pytest.raises(EmagError):
                model.check((*rules[:at], *new, *rules[at:]), call)


def test_the_reason_is_that_of_guide(model):
    greyed = apart(model, parse("cfg=2"), call_of(model))
    with pytest.raises(emag.BadValue) as error, emag.guide(model.pipe, *parse("cfg=2 apg")):
        pass
    assert str(error.value) == greyed["apg"] and not {"emag", "rescale", "ag"} & set(greyed)
    with pytest.raises(emag.BadValue, match="apg cannot be added here: cfg and apg both combine"):
        added(model, parse("cfg=2"), "apg", call_of(model))


@pytest.mark.parametrize(("text", "name", "found"), [
    ("emag=1.5", "seg", "emag=1.5 seg"), ("rescale", "cfg", "cfg rescale"), ("tcfg cfg=2", "ag", "ag tcfg cfg=2"),
    ("cfg=2 rescale", "emag", "cfg=2 rescale emag")])
def test_a_rule_is_added_at_the_last_place_where_it_works(model, text, name, found):
    assert text_of(added(model, parse(text), name, call_of(model))) == found


def test_rules_that_are_refused_by_themselves_grey_nothing_else(model):
    """The fault was there before."""
    greyed = apart(model, parse("cfg=2 apg=4"), call_of(model))
    assert "emag" not in greyed and "fdg" in greyed


def test_the_settings_have_a_say(model):
    """Without a scale of its own the pipeline has no unconditional rows to combine."""
    assert "cfg" not in apart(model, (), call_of(model)) and "unconditional" in apart(model, (), call_of(model, 1.0))["cfg"]


def test_what_is_tried_is_not_logged(model, caplog):
    with caplog.at_level(logging.WARNING, "emag"):
        apart(model, parse("emag=500"), call_of(model))
    assert not caplog.records and not logging.getLogger("emag").filters


def test_the_list_says_which_of_the_two(model):
    listed = palette.html({"tpg": "x"}, {"cfg": "y\u202e", "tpg": "z"})
    assert "Not on this model:</strong> x" in listed and "Not with these rules:</strong> y" in listed
    assert listed.count("disabled") == 2 and "\u202e" not in listed
