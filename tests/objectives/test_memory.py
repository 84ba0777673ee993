"""Which rules are teachers along a run only: those named, and what is asked of the others."""

from dataclasses import dataclass

import pytest

import emag
from emag.core import Rule
from emag.engine.reading import read_network
from emag.hosts.defaults import models_of, resolved
from emag.methods import METHODS
from emag.objectives import memory_of


@pytest.fixture(scope="module")
def rules():
    """Every rule that has defaults on the embedded model, by name."""
    pipe, found = emag.load("tiny"), {}
    network = read_network(pipe.transformer)
    for name, cls in METHODS.items():
        try:
            found[name] = resolved((cls(),), models_of(pipe), network)[0]
        except emag.BadValue:
            continue
    return found


TOLD = {"emag": "running average", "cads": "condition anew", "nag": "every pass", "emag-null": "every pass",
        **dict.fromkeys(("apg", "momentum", "higs", "sg-prev", "smc-cfg", "rcfg", "cfg-cache", "ag", "linear-ag", "covhis"),
                        "earlier steps"), **dict.fromkeys(("zero-init", "s2"), "place in a run")}


@pytest.mark.parametrize("name", TOLD)
def test_what_remembers_is_told(rules, name):
    assert TOLD[name] in memory_of(rules[name])


@pytest.mark.parametrize("name", ["cfg", "pag", "seg", "slg", "tcfg", "rescale", "cfg-norm", "fdg", "mahiro", "zero-star"])
def test_what_answers_at_any_time_is_free(rules, name):
    assert memory_of(rules[name]) is None


def test_apg_remembers_by_its_momentum_alone(rules):
    from dataclasses import replace

    assert memory_of(replace(rules["apg"], momentum=0.0)) is None
    assert "earlier steps" in memory_of(replace(rules["apg"], momentum=-0.5))
    assert "place in a run" in memory_of(emag.CFG(emag.Interval(4.0)))


@dataclass(frozen=True)
class Counting(Rule):
    """A rule of a stranger's, that says something else at each step, or breaks outside a run."""

    how: str = "counts"

    def apply(self, pred, branches, step, state):
        if self.how == "breaks":
            raise KeyError("no run")
        if self.how == "counts":
            state["count"] = state.get("count", 0) + 1
        return pred + (step.index if self.how == "looks" else 0)


@pytest.mark.parametrize(("how", "says"), [("counts", "earlier steps"), ("looks", "place in a run"),
                                           ("breaks", "cannot be asked")])
def test_a_strangers_rule_is_asked(how, says):
    assert says in memory_of(Counting(how))
    assert memory_of(Counting("neither")) is None
