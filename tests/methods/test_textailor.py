"""TexTailor: text tokens multiplied where some blocks take them in."""

from types import SimpleNamespace

import pytest
import torch

import emag
from emag.core import Rows
from emag.errors import BadValue, Unsupported
from emag.hosts.defaults import resolve
from emag.methods.attention.textailor import TailoredState
from reference import tensors
from spy import blocks_of
from tiny import CASES
from whole_blocks import answer, close, evaluated

JOINT = pytest.mark.parametrize("case", [CASES["sd3"], CASES["flux"], CASES["true-cfg"]], ids=lambda case: case.name)


def louder(pipe, layers, factor):
    """A copy of the network with the text multiplied in front of some blocks; single blocks of FLUX hold it first."""
    from copy import deepcopy

    other = SimpleNamespace(transformer=deepcopy(pipe.transformer))
    for at in layers:
        block = blocks_of(other)[at]
        block.register_forward_pre_hook(_multiplied(factor), with_kwargs=True)
    return other.transformer


def _multiplied(factor):
    def hook(module, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"] * factor}

    return hook


@JOINT
def test_every_pass_sees_a_louder_text(case):
    pipe, layers = case.pipe(), (1, 3)  # a double and a single block of FLUX
    rules = [emag.TexTailor(1.6, layers), emag.SLG(2.0, (2,))] + ([emag.CFG(3.0)] if case.uncond else [])
    seen, handle = evaluated(case, *rules, pipe=pipe, steps=2)
    clean = louder(pipe, layers, 1.6)
    close(seen[0].out, answer(clean, seen[0].values), atol=1e-9, rtol=1e-9)
    weak = seen[1].out
    blocks_of(SimpleNamespace(transformer=clean))[2].forward = _handed_on
    close(weak, answer(clean, seen[1].values), atol=1e-9, rtol=1e-9)
    assert handle.stats.evaluations == handle.stats.planned


def _handed_on(hidden_states, encoder_hidden_states, *_, **__):
    return encoder_hidden_states, hidden_states


def test_a_skipped_block_hands_on_the_text_as_it_is():
    """What a weak branch skips takes nothing in: there the factor has no place to act."""
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    seen, _ = evaluated(case, emag.TexTailor(1.6, (2,)), emag.SLG(2.0, (2,)), emag.CFG(3.0), pipe=pipe, steps=2)
    plain = louder(pipe, (), 1.0)
    blocks_of(SimpleNamespace(transformer=plain))[2].forward = _handed_on
    weak = seen[1]
    close(weak.out, answer(plain, weak.values), atol=1e-9, rtol=1e-9)


def test_rows_and_tokens_are_those_named():
    text, rows = tensors(1, 1, 4, 5, 3)[0], Rows(slice(2, 4), slice(0, 2), 4)

    def entered(*more):
        state = TailoredState(emag.TexTailor(2.0, (1,), *more).perturbation)
        return state.enter(1, {"hidden_states": text, "encoder_hidden_states": text}, rows)

    both, cond, part = entered(), entered("cond"), entered("both", 1, 3)
    assert torch.equal(both["encoder_hidden_states"], 2 * text) and torch.equal(both["hidden_states"], text)
    assert torch.equal(cond["encoder_hidden_states"], torch.cat([text[:2], 2 * text[2:]]))
    assert torch.equal(part["encoder_hidden_states"][:, 1:3], 2 * text[:, 1:3])
    assert torch.equal(part["encoder_hidden_states"][:, [0, 3, 4]], text[:, [0, 3, 4]])


def test_the_published_blocks_are_those_of_a_network_as_deep():
    assert resolve(emag.TexTailor(), ("FluxTransformer2DModel",), 57).layers == (2, 7, 12, 17, 22)


@pytest.mark.parametrize("values", [{"factor": -1.0}, {"first": -1}, {"first": 3, "last": 3}])
def test_values_are_checked(values):
    with pytest.raises(BadValue, match="textailor needs"):
        emag.TexTailor(**values)


@pytest.mark.parametrize("name", ["dit", "pixart"])
def test_networks_without_a_stream_of_text_are_refused(name):
    with pytest.raises(Unsupported, match="flows through the blocks"), emag.guide(CASES[name].pipe(), emag.TexTailor()):
        pass
