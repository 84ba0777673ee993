"""The scheduler gets exactly what the rules gave, also where the host divides by the norm or the spread of our result."""

import copy
import inspect
import logging
import pickle

import diffusers
import pytest
import torch

import emag
from emag.engine.answer import Combined, combined
from emag.families import HOSTS
from emag.hosts.guider import EmagGuider
from emag.methods import METHODS
from emag.testing.cases import every
from modular import MODULAR
from spy import scheduler_steps

MORE = every()
# pipelines that rescale what they combined, always or where they are asked to; the scheduler gets a velocity
RESCALING = {"qwen": {}, "qwen-img2img": {}, "qwen-edit": {}, "qwen-edit-plus": {}, "qwen-control": {},
             "qwen-layered": {"cfg_normalize": True}, "longcat": {"enable_cfg_renorm": True},
             "lumina2": {"cfg_normalization": True},
             "ltx": {"guidance_rescale": 0.7}, "z-image": {"cfg_normalization": True}}
ZERO = METHODS["zero-init"](2)


@pytest.mark.parametrize("name", RESCALING)
def test_a_step_without_velocity_stays_one(name):
    case, pipe = MORE[name], MORE[name].pipe()
    with scheduler_steps(pipe) as given, emag.guide(pipe, emag.CFG(3.0), ZERO):
        out = case.run(pipe, seeds=(8,), num_inference_steps=4, **RESCALING[name])
    assert not given[0].any() and not given[1].any() and given[2].any() and out.isfinite().all()


@pytest.mark.parametrize("name", [name for name, modular in MODULAR.items() if modular.rescales])
def test_a_modular_step_without_velocity_stays_one(name):
    modular, pipe = MODULAR[name], MODULAR[name].case.pipe()
    inputs = modular.standard(pipe)[1]
    for rules in ((emag.CFG(3.0), ZERO), (ZERO,)):
        given = modular.run(modular.pipe(pipe, EmagGuider(*rules)), inputs)
        assert not given[:2].any() and given[2:].any() and given.isfinite().all()


@pytest.mark.parametrize(("name", "more"), [
    ("sd", {"guidance_rescale": 0.7}), ("sdxl", {"guidance_rescale": 0.7}), ("sdxl-img2img", {"guidance_rescale": 0.7}),
    ("hunyuan", {"guidance_rescale": 0.7}), ("ltx", {"guidance_rescale": 0.7}), ("lumina2", {"cfg_normalization": True}),
    ("qwen-layered", {"cfg_normalize": True}), ("longcat", {"enable_cfg_renorm": True})])
def test_a_rescale_is_left_out_to_the_bit_and_that_is_said(name, more, caplog):
    case, off = MORE[name], {key: type(value)(0) for key, value in more.items()}
    with caplog.at_level(logging.WARNING, "emag"):
        given = []
        for settings in (off, more):
            caplog.clear()
            pipe = case.pipe()
            with scheduler_steps(pipe) as steps, emag.guide(pipe, emag.CFG(3.0)):
                case.run(pipe, num_inference_steps=3, **settings)
            given.append(torch.stack(steps))
        assert torch.equal(*given) and f"{next(iter(more))}={next(iter(more.values()))} is ignored" in caplog.text


@pytest.mark.parametrize("name", [name for name in HOSTS if hasattr(diffusers, name)])
def test_every_argument_that_rescales_is_declared(name):
    host, arguments = HOSTS[name], inspect.signature(getattr(diffusers, name).__call__).parameters
    found = {one for one in arguments if "rescale" in one or "normali" in one or one.endswith("renorm")}
    if name.startswith("LTX2"):  # rescales x0, in fp32, and its sound by the same argument
        found -= {"guidance_rescale", "audio_guidance_rescale"}
    assert found == {one for one, *_ in (*host.rescales, *host.combined)}


# What hosts make of our result


def divided(pred, dims=-1):
    return pred * (pred.norm(dim=dims, keepdim=True) / torch.norm(pred, dim=dims, keepdim=True))


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0, 6e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_ratio_of_equals_is_one(value, dtype):
    pred = torch.full((2, 4, 64), value, dtype=dtype)
    ours = combined(pred)
    for made in (divided(ours), divided(torch.stack([ours, ours]).chunk(2)[1].float()).to(dtype),
                 ours * (ours.std(dim=[1, 2], keepdim=True) / ours.std(dim=[1, 2], keepdim=True))):
        assert torch.equal(made.reshape(pred.shape), pred)


def test_what_is_not_a_number_stays_so():
    assert divided(combined(torch.full((1, 4), float("nan")))).isnan().all()
    assert torch.equal(combined(torch.ones(3)) / 2, torch.full((3,), 0.5))
    assert (combined(torch.zeros(2)) / torch.zeros(2)).isnan().all()


def test_what_is_computed_with_anything_else_is_an_ordinary_tensor():
    ours, x = combined(torch.ones(2, 3)), torch.ones(2, 3)
    for own in (ours.half(), -ours, 2 * ours, ours[0], ours.chunk(2)[1], torch.stack([ours, ours])):
        assert type(own) is Combined
    for plain in (x + ours, x - 0.5 * ours, torch.cat([ours, x]), torch.lerp(x, ours, 0.5), copy.deepcopy(ours),
                  pickle.loads(pickle.dumps(ours))):
        assert type(plain) is torch.Tensor


def test_latents_are_ordinary_tensors():
    case = MORE["qwen"]
    pipe, seen = case.pipe(), []

    def note(pipe, i, t, given):
        seen.append(type(given["latents"]))
        return given

    with emag.guide(pipe, emag.CFG(3.0)):
        out = case.run(pipe, callback_on_step_end=note)
    assert {type(out), *seen} == {torch.Tensor}


def test_it_shares_memory_with_the_answer():
    first = torch.zeros(2, 3)
    lent = combined([first])[0]
    first.copy_(torch.ones(2, 3))
    assert torch.equal(lent, torch.ones(2, 3))  # what a first of two calls got is overwritten by the second
