"""What methods say they cost is what they cost: those without evaluations make exactly those of CFG."""

import pytest

import emag
from emag.lab.draw import showcase
from emag.methods import METHODS
from ratios import ratios
from tiny import CASES

STEPS = 4
KINDS = ("condition", "null", "combining", "after", "schedule", "attention")
ELSEWHERE = {"modulation": "another text", "perp-neg": "another text", "cs-apg": "another text", "textailor": "its layers",
             "cfg++": "another kind of step", "cfg": "what the others are held against"}
"""What asks more than this pipeline gives, and what it asks."""


def free():
    """Methods whose cost is "none" in so many words, as the showcase sets them."""
    shown = {column.label: column.rules for column in showcase.columns(KINDS)} | {"recfg": (emag.ReCFG(ratios()),)}
    return {name: shown[name] for name, method in METHODS.items() if method.cost == "none" and name not in ELSEWHERE}


@pytest.fixture(scope="module")
def plain():
    return evaluations((emag.CFG(4.0),))


def evaluations(rules):
    """Blocks that a call evaluates, counted as it runs and as its plan said."""
    case = CASES["sd3"]
    pipe = case.pipe()
    with emag.guide(pipe, *rules) as run:
        case.run(pipe, (8,), num_inference_steps=STEPS)
    return run.stats.evaluations, run.stats.planned


def test_there_are_many():
    assert {"momentum", "higs", "tag", "smc-cfg", "mahiro", "covhis", "fresca", "cads", "tcfg"} <= set(free())


@pytest.mark.parametrize("name", free())
def test_a_method_that_costs_nothing_makes_the_evaluations_of_cfg(name, plain):
    rules = free()[name]
    own = any(rule.kind == "combining" for rule in rules)
    assert evaluations(rules if own else (*rules, emag.CFG(4.0))) == plain
