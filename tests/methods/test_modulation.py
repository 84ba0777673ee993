"""Modulation guidance: the pooled text moved from a negative prompt's towards a positive one's."""

from copy import deepcopy

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue, Unsupported
from emag.testing.small_unet import MORE
from reference import at_step, tensors
from spy import network_outputs
from tiny import CASES, noise

NAME = "pooled_projections"
close = torch.testing.assert_close
AWAY, BETTER = noise(70, 1, 10), noise(71, 1, 10)
GIVEN = {"away": {NAME: AWAY}, "better": {NAME: BETTER}}


def moved(rule, own, side=COND, given=GIVEN):
    text = torch.ones(len(own), 5, 12)
    made = rule.condition({"encoder_hidden_states": text, NAME: own}, at_step(branch=side, given=given))
    assert made["encoder_hidden_states"] is text
    return made[NAME]


def test_the_pooled_text_is_its_formula():
    own, = tensors(1, 1, 3, 10)
    close(moved(emag.ModulationGuidance("away", 3.0), own), own + 3 * (own - AWAY))
    close(moved(emag.ModulationGuidance("away", 3.0, "better"), own), own + 3 * (BETTER - AWAY))
    assert torch.equal(moved(emag.ModulationGuidance("away", 2.0, "away"), own), own)


def test_the_other_condition_is_moved_only_where_both_are_meant():
    own, = tensors(1, 1, 3, 10)
    assert moved(emag.ModulationGuidance("away"), own, UNCOND) is own
    close(moved(emag.ModulationGuidance("away", rows="both"), own, UNCOND), own + 3 * (own - AWAY))


def test_each_image_has_its_own_negative_also_where_rows_are_repeated():
    own, (away,) = tensors(1, 1, 4, 10)[0], tensors(2, 1, 2, 10)
    made = moved(emag.ModulationGuidance("away", 1.0), own, given={"away": {NAME: away}})
    close(made, 2 * own - torch.cat([away, away]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays(dtype):
    made = moved(emag.ModulationGuidance("away"), torch.zeros(2, 10, dtype=dtype))
    assert made.dtype == dtype and made.isfinite().all()


@pytest.mark.parametrize("name", ["sd3", "flux", "true-cfg"])
def test_the_network_is_given_the_moved_text(name):
    """What the first call of the network returns is what it returns by itself for the moved vector."""
    case = CASES[name]
    call, plain = case.call(), deepcopy(case.pipe())
    own = call["pooled_prompt_embeds"]
    with network_outputs(plain) as expected:
        plain(**{**call, "pooled_prompt_embeds": own + 3 * (own - AWAY)})
    pipe = case.pipe()
    with network_outputs(pipe) as made, emag.guide(pipe, emag.ModulationGuidance("away"), conditions=GIVEN) as run:
        case.run(pipe)
    close(made[0], expected[0], atol=1e-5, rtol=1e-5)
    assert run.stats.evaluations == run.stats.planned == run.stats.clean


def test_weak_passes_are_under_the_moved_text_too():
    case, rules = CASES["sd3"], (emag.SLG(1.5, (1,)),)
    call, plain = case.call(), case.pipe()
    own = call["pooled_prompt_embeds"]
    with network_outputs(plain) as expected, emag.guide(plain, *rules):
        plain(**{**call, "pooled_prompt_embeds": own + 3 * (own - AWAY)})
    pipe = case.pipe()
    with network_outputs(pipe) as made, emag.guide(pipe, emag.ModulationGuidance("away"), *rules, conditions=GIVEN):
        case.run(pipe)
    assert len(made) == len(expected)
    close(made[1], expected[1], atol=1e-5, rtol=1e-5)  # the weak pass of the first step


def test_a_loop_of_one_s_own_gives_its_conditions():
    own, = tensors(1, 1, 2, 10)
    seen = []

    def denoiser(x, t, condition):
        seen.append(condition[NAME])
        return 0 * x

    model = emag.guided(denoiser, emag.ModulationGuidance("away", 2.0), path=[1.0, 0.5, 0.0],
                        conditions={"cond": {NAME: own}, "away": {NAME: AWAY}})
    model(torch.zeros(2, 4, 8, 8), 0)
    close(seen[0], own + 2 * (own - AWAY))
    with pytest.raises(BadValue, match="'away', which was not given"):
        emag.guided(denoiser, emag.ModulationGuidance("away"), path=[1.0, 0.0], conditions={"cond": {NAME: own}})


@pytest.mark.slow
def test_the_embedded_model_looks_another_way():
    pipe, more = emag.load("tiny"), {"num_inference_steps": 3, "output_type": "latent"}

    def drawn(*rules):
        with emag.guide(pipe, *rules):
            return pipe("a photo of a frog", generator=torch.Generator().manual_seed(3), **more).images

    away = emag.ModulationGuidance("prompt:a photo of a ship", 0.5)
    assert not torch.allclose(drawn(away), drawn(), atol=1e-3)
    assert torch.equal(drawn(emag.ModulationGuidance("prompt:a photo of a ship", 0.0)), drawn())
    # towards and away from one and the same prompt is nowhere
    same = "prompt:a photo of a ship"
    assert torch.equal(drawn(emag.ModulationGuidance(same, 0.5, same)), drawn())


def test_a_u_net_with_a_pooled_text_is_guided():
    pipe = MORE["sdxl"].pipe()
    plain = MORE["sdxl"].run(MORE["sdxl"].pipe())
    given = {"away": {"added_cond_kwargs.text_embeds": AWAY}}
    with emag.guide(pipe, emag.ModulationGuidance("away", 0.5), conditions=given):
        assert not torch.allclose(MORE["sdxl"].run(pipe), plain, atol=1e-3)


# refused


@pytest.mark.parametrize("name", ["dit", "pixart"])
def test_networks_without_a_pooled_text_are_refused(name):
    with pytest.raises(Unsupported, match="one vector"), \
            emag.guide(CASES[name].pipe(), emag.ModulationGuidance("away"), conditions={"away": {}}):
        pass


def test_conditions_that_nobody_gave_are_refused():
    pipe = CASES["sd3"].pipe()
    with pytest.raises(BadValue, match="'away', which was not given"), emag.guide(pipe, emag.ModulationGuidance("away")):
        pass
    text = {"away": {"encoder_hidden_states": noise(1, 1, 5, 12)}}
    with pytest.raises(BadValue, match="has no pooled_projections"), \
            emag.guide(pipe, emag.ModulationGuidance("away"), conditions=text):
        CASES["sd3"].run(pipe)


@pytest.mark.parametrize("wrong", [{"weight": float("inf")}, {"negative": "cond"}, {"positive": "uncond"}, {"rows": "null"}])
def test_values_are_checked(wrong):
    with pytest.raises(BadValue):
        emag.ModulationGuidance(**{"negative": "away", **wrong})
