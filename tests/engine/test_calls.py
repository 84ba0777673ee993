"""A network gets every argument as its host gives it: by place or by name, in weak passes too."""

import inspect
from dataclasses import replace

import pytest
import torch

import emag
from emag.engine.arguments import Arguments
from emag.engine.reading import read_network
from emag.families import BACKBONES
from emag.lab.doctor.coverage import networks
from emag.methods import METHODS
from present import ABSENT
from spy import attribute, denoiser_of
from tiny import sd3

pytestmark = pytest.mark.sampled(2)


def forms(case, *rules):
    """How each call of a run's network was made: arguments by place, names, and rows."""
    pipe, seen = case.pipe(), []
    net = denoiser_of(pipe)
    whole = net.forward

    def forward(*args, **kwargs):  # what a tool does that wraps a network without knowing its arguments
        seen.append((len(args), frozenset(kwargs)))
        return whole(*args, **kwargs)

    with attribute(net, "forward", forward), emag.guide(pipe, *rules):
        case.run(pipe, seeds=(8,), num_inference_steps=4)
    return seen


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - ABSENT))
def test_calls_are_made_as_the_host_makes_them(name):
    case = networks()[name]
    plain, weak = forms(case), forms(case, METHODS["slg"](1.5, (1,)))
    assert set(weak) == set(plain) and len(weak) > len(plain)
    guided = forms(case, emag.CFG(3.0)) if case.uncond else plain
    assert set(guided) == set(plain) and len(guided) == len(plain)


def opened(x, /, t, scale=2.0, *rest, mark=None, **more):
    return x, t, scale, rest, mark, more


@pytest.mark.parametrize(("args", "kwargs"), [
    ((1, 2), {}), ((1,), {"t": 2}), ((1, 2, 3.0, 4, 5), {}), ((1, 2), {"mark": 6, "other": 7}),
    ((1,), {"t": 2, "scale": 9})])
def test_any_signature_is_called_as_it_was(args, kwargs):
    network = read_network(sd3().transformer)
    own = replace(network, backbone=replace(network.backbone, sample="x", timestep="t"), signature=inspect.signature(opened))
    x = torch.ones(2, 4, 8, 8)
    seen = []
    call = Arguments.bind(own, (x, *args[1:]), kwargs)
    call.evaluated(lambda *args, **kwargs: seen.append((args, kwargs)) or x)
    (placed, named), = seen
    assert torch.equal(placed[0], x) and placed[1:] == args[1:] and named == kwargs
    call.replacing({"t": 5}).evaluated(lambda *args, **kwargs: seen.append((args, kwargs)) or x)
    assert opened(*seen[1][0], **seen[1][1])[1] == 5


def test_a_call_that_the_network_does_not_take():
    with pytest.raises(TypeError, match="unexpected"):
        Arguments.bind(read_network(sd3().transformer), (torch.ones(2, 4, 8, 8),), {"nonsense": 1})
