"""UnGuide's weight measured on a pipeline: which way it decides, and that the measure is the formula's."""

from copy import deepcopy

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.hosts.unguide import UnlearnedDistance, measured_weight

STEPS = {"num_inference_steps": 5}


@pytest.fixture(scope="module")
def pipe():
    return emag.load("tiny")


def unlearned(pipe, prompt):
    """The network with another answer to the pooled embedding of one prompt, and to no other."""
    net = deepcopy(pipe.transformer)
    known = pipe.encode_prompt(prompt, None, None)[2][0] if prompt else None
    forward = net.forward

    def changed(*args, pooled_projections=None, **kwargs):
        out = forward(*args, pooled_projections=pooled_projections, **kwargs)
        hit = torch.isclose(pooled_projections, known, atol=1e-5).all(1).view(-1, 1, 1, 1).to(out[0].dtype)
        return (out[0] * (1 + hit),)

    net.forward = changed
    return net


@pytest.mark.slow
def test_what_was_unlearned_is_pushed_away_and_the_rest_kept(pipe):
    net = unlearned(pipe, "a photo of a ship")
    shared = {"models": {"unlearned": net}, "model": "unlearned", "repeats": 2, **STEPS}
    assert measured_weight(pipe, "a photo of a ship", **shared) == -1.0
    assert measured_weight(pipe, "a photo of a ship", erase=-0.5, **shared) == -0.5
    same = {"models": {"unlearned": deepcopy(pipe.transformer)}, "model": "unlearned", "repeats": 1, **STEPS}
    assert measured_weight(pipe, "a photo of a ship", **same) == 2.0


def test_the_distance_is_that_of_both_networks_at_one_step(pipe):
    """Twice the velocity there: |e_u - e_f| is alpha |v|, and only the step asked for is measured."""
    net, seen = unlearned(pipe, "a photo of a ship"), []

    def keep(_pipe, _i, _t, values):
        seen.append(values["latents"].clone())
        return values

    rule = UnlearnedDistance("unlearned", share=0.4)
    with emag.guide(pipe, rule, emag.CFG(1.5), models={"unlearned": net}) as run:
        pipe(["a photo of a ship"] * 2, generator=[torch.Generator().manual_seed(i) for i in range(2)], output_type="latent",
             callback_on_step_end=keep, **STEPS)
    x, sigma = seen[1], float(pipe.scheduler.sigmas[2])
    text, _, pooled, _ = pipe.encode_prompt("a photo of a ship", None, None)
    with torch.no_grad():
        v = pipe.transformer(hidden_states=x, timestep=torch.full((2,), 1000 * sigma), return_dict=False,
                             encoder_hidden_states=text.expand(2, -1, -1), pooled_projections=pooled.expand(2, -1))[0]
    found, = rule.distances
    torch.testing.assert_close(found, (1 - sigma) * v.flatten(1).norm(dim=1), atol=1e-3, rtol=1e-3)
    assert run.stats.rules


def test_refusals(pipe):
    with pytest.raises(BadValue, match="share of the run"):
        measured_weight(pipe, "a photo of a ship", share=1.0, **STEPS)
    with pytest.raises(BadValue, match="at least one image"):
        measured_weight(pipe, "a photo of a ship", repeats=0, **STEPS)
