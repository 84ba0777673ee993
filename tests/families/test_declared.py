"""What an entry does not declare is asked for, never taken as zero; grids lie anywhere; wrapped networks are unwrapped."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, LoraModel, get_peft_model

import emag
from emag.engine.reading import read_network, unwrapped
from emag.errors import BadValue, Unsupported
from emag.families import BACKBONES, Backbone
from emag.lab.doctor.coverage import networks
from emag.methods import METHODS
from emag.testing.small_joint import MORE as JOINT
from emag.testing.small_longcat import MORE as LONGCAT
from spy import denoiser_of
from tiny import CASES, noise, sd3

# Positions of text tokens

TEXTS = {"flux": (CASES["flux"], 3), "chroma": (JOINT["chroma"], 3), "klein": (JOINT["klein"], 4),
         "longcat": (LONGCAT["longcat"], 3)}

NUMBERED = {"klein": [3], "longcat": [1, 2]}
"""Columns that number the text's tokens, as the pipelines fill them."""


def negative(case, **condition):
    pipe = case.pipe()
    with emag.guide(pipe, METHODS["negative"](3.0, negative="other"), conditions={"other": condition}):
        return case.run(pipe, (8,), num_inference_steps=3)


@pytest.mark.parametrize("name", TEXTS)
def test_positions_of_text_are_declared_or_asked_for(name, monkeypatch):
    case, width = TEXTS[name]
    other, ids = noise(1, 1, 5, 12), torch.zeros(5, width)
    ids[:, NUMBERED.get(name, [])] = torch.arange(5.0)[:, None]
    given, declared = negative(case, encoder_hidden_states=other, txt_ids=ids), negative(case, encoder_hidden_states=other)
    assert torch.equal(given, declared)
    own = type(case.pipe().transformer).__name__
    monkeypatch.setitem(BACKBONES, own, replace(BACKBONES[own], text_ids=Backbone("X", (), ()).text_ids))
    with pytest.raises(BadValue, match="txt_ids"):
        negative(case, encoder_hidden_states=other)
    assert torch.equal(negative(case, encoder_hidden_states=other, txt_ids=ids), given)
    moved = negative(case, encoder_hidden_states=other, txt_ids=ids + torch.arange(5)[:, None])
    assert not torch.allclose(moved, given, atol=1e-3)


@pytest.mark.slow
def test_every_network_that_takes_them_declares_them():
    takes = {name for name, case in networks().items()
             if "txt_ids" in read_network(denoiser_of(case.pipe())).signature.parameters}
    assert takes == {name for name in networks() if BACKBONES[name].text_ids is not None}


# Grids


def places(rows, columns, start=(0, 0), pitch=1.0, before=0, references=0):
    """Positions [tokens, (image, row, column)]: of a text, of an image row by row, of reference images."""
    own = torch.cartesian_prod(torch.arange(rows) * pitch + start[0], torch.arange(columns) * pitch + start[1])
    image = torch.cat([torch.zeros(len(own), 1), own], 1)
    return torch.cat([torch.zeros(before, 3), image, torch.ones(references, 3)])


@pytest.mark.parametrize("where", [{}, {"start": (512, 512)}, {"start": (-3, 7)}, {"pitch": 0.5}, {"pitch": 2.0},
                                   {"start": (3, 512), "pitch": 1.25, "before": 5}])
@pytest.mark.parametrize("references", [0, 6])
def test_a_grid_lies_anywhere(where, references):
    network = replace(read_network(CASES["flux"].pipe().transformer), references=references)
    ids = places(4, 7, references=references, **where)
    assert network.grid({"img_ids": ids, "hidden_states": torch.zeros(1, 28 + references, 16)}) == (4, 7, 2)


def test_positions_that_fill_no_grid_are_refused():
    network, ids = read_network(CASES["flux"].pipe().transformer), places(4, 7)
    with pytest.raises(Unsupported, match="do not fill a grid"):
        network.grid({"img_ids": ids[:-1], "hidden_states": torch.zeros(1, 27, 16)})


# Wrappers

LORA = LoraConfig(target_modules=["to_q", "to_k"])
WRAPPERS = {"peft": lambda net: get_peft_model(net, LORA), "tuner": lambda net: LoraModel(net, LORA, "default"),
            "compiled peft": lambda net: torch.compile(get_peft_model(net, LORA), backend="eager")}
RULES = (emag.EMAG(1.5, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9)), emag.CFG(3.0))


class Own(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


def guided(wrap):
    pipe = sd3()
    pipe.transformer = wrap(pipe.transformer)
    with emag.guide(pipe, *RULES):
        return CASES["sd3"].run(pipe)


@pytest.mark.parametrize("name", ["peft", "tuner", pytest.param("compiled peft", marks=pytest.mark.slow)])
def test_a_pipelines_network_in_a_wrapper(name):
    assert torch.allclose(guided(WRAPPERS[name]), guided(lambda net: net), atol=1e-4)


def test_an_unknown_wrapper_is_named():
    for use in (lambda: guided(Own), lambda: emag.guided(lambda x, t, c: x, RULES[0], path=[1.0, 0.5, 0.0],
                                                         backbone=Own(sd3().transformer))):
        with pytest.raises(Unsupported, match=r"Own is .*SD3Transformer2DModel inside: unwrap it, network = wrapper\.net"):
            use()


def test_data_parallel():
    net = sd3().transformer
    wrapped = torch.nn.DataParallel(net)
    assert unwrapped(wrapped) is unwrapped(torch.nn.DataParallel(get_peft_model(net, LORA))) is net
    wrapped.device_ids = [0, 1]
    with pytest.raises(Unsupported, match=r"2 devices.*unwrap it, network = wrapper\.module"):
        read_network(wrapped)


def test_what_a_rule_needs_and_nobody_says():
    net = sd3().transformer
    mine = (net, replace(BACKBONES["SD3Transformer2DModel"], name="Mine"))
    with pytest.raises(BadValue, match=r"emag has no default window on Mine: give one, e\.g\. window=emag\.Window"):
        emag.guided(lambda x, t, c: x, emag.EMAG(1.5), path=[1.0, 0.6, 0.3, 0.0], backbone=mine)
    assert emag.guided(lambda x, t, c: x, RULES[0], path=[1.0, 0.6, 0.3, 0.0], backbone=mine).rules
