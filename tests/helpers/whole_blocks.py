"""Networks without some of their blocks."""

import inspect
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

import emag
from emag.methods import METHODS as C
from spy import attribute, blocks_of
from tiny import CASES

close = torch.testing.assert_close
SLG, STG, S2, TPG = C["slg"], C["stg"], C["s2"], C["tpg"]
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@contextmanager
def calls_of(pipe):
    """Every true evaluation of a pipeline's network, weak ones too: (arguments by name, prediction)."""
    seen, original = [], pipe.transformer.forward
    signature = inspect.signature(original)

    def forward(*args, **kwargs):
        values = dict(signature.bind(*args, **kwargs).arguments)
        answer = original(*args, **kwargs)
        seen.append(SimpleNamespace(values=values, out=_sample(answer).clone()))
        return answer

    with attribute(pipe.transformer, "forward", forward):
        yield seen


def _sample(answer):
    return answer[0] if isinstance(answer, tuple) else answer.sample


def evaluated(case, *rules, steps=3, seeds=(8, 9), pipe=None):
    """A guided run in float64, so that rounding hides nothing: each step's clean call and the weak ones after it."""
    pipe = (pipe or case.pipe()).to(torch.float64)
    call = {key: value.double() if key.endswith("embeds") else value for key, value in case.call(seeds).items()}
    with calls_of(pipe) as seen, emag.guide(pipe, *rules) as handle:
        pipe(**{**call, "num_inference_steps": steps})
    return seen, handle


def weak_calls(case, *rules, rows=2, **call):
    """The weak evaluations of a guided run: those of the conditional rows alone, on hosts with one doubled call."""
    seen, _ = evaluated(case, *rules, **call)
    if case.name == "true-cfg":
        return [call for i, call in enumerate(seen) if i % 3 == 1]
    if not case.uncond:
        return seen[1::2]
    return [call for call in seen if len(call.out) == rows]


def identity(block):
    """What a block returns if it hands its streams on, in its own order."""
    if "encoder_hidden_states" in inspect.signature(block.forward).parameters and hasattr(block, "attn"):
        return lambda hidden_states, encoder_hidden_states, *_, **__: (encoder_hidden_states, hidden_states)
    return lambda hidden_states, *_, **__: hidden_states


def without(pipe, layers):
    """A copy of a pipeline's network in which some blocks do nothing."""
    other = SimpleNamespace(transformer=deepcopy(pipe.transformer))
    for at in layers:
        block = blocks_of(other)[at]
        block.forward = identity(block)
    return other.transformer


@torch.no_grad()
def answer(net, values):
    return _sample(net(**values))
