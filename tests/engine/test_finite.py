"""A run stops at the first prediction that is not finite, and says whether the network or which rule made it."""

from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import emag
from cases import EMAG
from emag.core import UNCOND, Rule
from emag.engine.finite import Asked, Finite, Sent
from emag.errors import NotFinite
from emag.hosts.guider import EmagGuider
from emag.lab.draw.columns import Column, run
from emag.lab.draw.sampling import DrawSettings, Job
from emag.methods import METHODS
from emag.methods.weak.pag import PAG
from emag.samplers import sample
from modular import MODULAR
from tiny import CASES, noise, sd3, sd3_call

INF, NAN = float("inf"), float("nan")


def broken(net, block=2):
    with torch.no_grad():
        next(net.transformer_blocks[block].parameters()).fill_(INF)


@dataclass(frozen=True)
class Bad(Rule):
    """A rule that gives what is not finite from step `late` on."""

    late: int = 0
    value: str = "nan"
    null: bool = False

    name, kind = "bad", "after"

    def apply(self, pred, branches, step, state):
        return pred * float(self.value) if step.index >= self.late else pred


@dataclass(frozen=True)
class BadNull(Bad):
    name, kind = "bad-null", "null"

    def apply(self, pred, branches, step, state):
        return pred

    def new_null(self, branches, step, state):
        return branches[UNCOND] * float(self.value)


def steps_of(case, pipe, *rules, **call):
    """The error of a run, and how many steps it made before."""
    made = []
    original = pipe.scheduler.step
    pipe.scheduler.__dict__["step"] = lambda *args, **kwargs: made.append(1) or original(*args, **kwargs)
    with pytest.raises(NotFinite) as raised, emag.guide(pipe, *rules):
        case.run(pipe, **call)
    return str(raised.value), len(made)


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_overflows(name):
    pipe = CASES[name].pipe()
    broken(pipe.transformer, 1)
    said, made = steps_of(CASES[name], pipe, EMAG(1.5))
    assert said.startswith("step 1 of 8: the network's prediction is not finite") and made == 0


def test_a_rule_that_overflows():
    said, made = steps_of(CASES["sd3"], sd3(), emag.CFG(3.0), Bad(3))
    assert said.startswith("step 4 of 8: the result of bad is not finite") and made == 3
    said, _ = steps_of(CASES["sd3"], sd3(), emag.CFG(1e38), METHODS["rescale"](0.5))
    assert "the result of cfg " in said


@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_an_unconditional_prediction_that_a_rule_spoils(name):
    said, made = steps_of(CASES[name], CASES[name].pipe(), BadNull())
    assert "the unconditional prediction of bad-null " in said and made == 0


def test_an_unconditional_prediction_of_the_network():
    pipe, call = CASES["true-cfg"].pipe(), {}
    call["negative_prompt_embeds"] = torch.full((2, 5, 12), INF)
    said, made = steps_of(CASES["true-cfg"], pipe, emag.CFG(3.0), **call)
    assert "the network's unconditional prediction " in said and made == 0


def test_a_weak_branch(monkeypatch):
    state = type(PAG(2.0, (1,)).perturbation.start((1.0,), None))
    monkeypatch.setattr(state, "perturb", lambda self, block, call, sdpa: call.q * NAN)
    said, _ = steps_of(CASES["sd3"], sd3(), PAG(2.0, (1,)))
    assert "the weak branch of pag " in said


def test_latents_that_a_callback_spoils():
    def spoil(pipe, i, t, given):
        return {"latents": given["latents"] * (NAN if i == 1 else 1.0)}

    said, made = steps_of(CASES["sd3"], sd3(), EMAG(1.5), callback_on_step_end=spoil)
    assert said.startswith("step 3 of 8: x_t is not finite") and made == 2 and "callbacks" in said


def test_a_result_too_large_for_the_hosts_dtype():
    pipe = sd3().to(torch.float16)
    call = {name: value.half() if isinstance(value, torch.Tensor) else value for name, value in sd3_call((8,)).items()}
    said, made = steps_of(CASES["sd3"], pipe, emag.CFG(1e6), seeds=(8,), **call)
    assert "the result of the rules, in float16, " in said and made == 0


# Other ways in


def test_a_function():
    calls = []

    def denoiser(x, t, c):
        calls.append(t)
        return x * (NAN if len(calls) > 4 else 1.0)

    model = emag.guided(denoiser, emag.CFG(3.0), path=[1.0, 0.7, 0.4, 0.0], conditions={"cond": 1, "uncond": 0})
    with pytest.raises(NotFinite, match="step 3 of 3: the network's prediction"):
        sample(model, noise(0, 1, 4))
    with pytest.raises(NotFinite, match="x_t"):
        model(torch.full((1, 4), INF), 0)


def test_a_guider():
    modular = MODULAR["sd3"]
    pipe = modular.case.pipe()
    inputs = modular.standard(pipe)[1]
    broken(pipe.transformer)
    with pytest.raises(NotFinite, match="step 1 of 8: the network's prediction"):
        modular.run(modular.pipe(pipe, EmagGuider(emag.CFG(3.0))), inputs)


@pytest.fixture
def tiny():
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("column", ["none", "emag=1.5", "cfg=2", "cfg=2 pcg"])
@pytest.mark.parametrize("part", ["network", "picture"])
def test_a_column_draws_no_black_picture(tiny, column, part, monkeypatch):
    if part == "network":
        broken(tiny.transformer)
    else:
        decode = tiny.vae.decode
        monkeypatch.setattr(tiny.vae, "decode", lambda *args, **kwargs: (decode(*args, return_dict=False)[0] * NAN,))
    with pytest.raises(NotFinite, match="finite"):
        run(tiny, Column.parse(column), [Job("a photo of a frog", None, 1)], DrawSettings(steps=3), 1)


# A device that is not waited for


class Event:
    def __init__(self):
        self.over = self.waited = False

    def query(self):
        return self.over

    def synchronize(self):
        self.waited = True


def sent(*flags):
    asked = tuple(Asked(f"step {i}", "network", torch.tensor(flag)) for i, flag in enumerate(flags))
    return Sent(asked, torch.tensor(flags), Event())


def test_answers_are_read_when_they_are_there_and_in_order():
    finite, one, two = Finite(), sent(True, True), sent(True, False)
    finite._sent = deque([one, two])
    two.event.over = True
    finite.after_step()  # the first is still on its way
    one.event.over = True
    with pytest.raises(NotFinite, match="step 1"):
        finite.after_step()
    assert not one.event.waited


def test_the_end_of_a_run_reads_all():
    finite, late = Finite(), sent(False)
    finite._sent.append(late)
    with pytest.raises(NotFinite, match="step 0"):
        finite.finish()
    assert late.event.waited


def test_other_devices_are_read_at_the_end():
    finite = Finite()
    finite._asked.append(SimpleNamespace(what="step 3", whose="rule", flag=torch.tensor(False)))
    finite.after_step()
    with pytest.raises(NotFinite, match="step 3"):
        finite.finish()
