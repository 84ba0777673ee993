"""Scales that are exact on first-order deterministic samplers: CFG++ on schedulers of diffusers, and what is refused."""

import re
from types import SimpleNamespace

import diffusers
import pytest
import torch

import emag
from emag.engine.trajectory import trajectory
from emag.errors import Unsupported
from emag.hosts.first_order import SCHEDULERS, check_sampler
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods import METHODS
from emag.methods.combining.compose import Compose, Term
from emag.samplers import DCSolver, Path, ReverseSDE, UniPC, sample
from emag.samplers.first_order import needy
from emag.schedules import Annealing, CFGpp, Constant
from tiny import dit, dit_call, quiet

RULES = (emag.CFG(CFGpp(0.6)),)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PLAIN = {**BETAS, "clip_sample": False}
FIRST = [
    ("DDIMScheduler", {**PLAIN, "steps_offset": 1}),
    ("DDIMScheduler", {**PLAIN, "set_alpha_to_one": False, "steps_offset": 1}),
    ("DDIMScheduler", {**PLAIN, "prediction_type": "v_prediction"}), ("CogVideoXDDIMScheduler", BETAS),
    ("CogVideoXDDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", BETAS), ("EulerDiscreteScheduler", {**BETAS, "use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {**BETAS, "prediction_type": "v_prediction"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("DPMSolverMultistepScheduler", {**BETAS, "solver_order": 1, "final_sigmas_type": "zero"}),
]
OTHERS = [
    ("EulerAncestralDiscreteScheduler", BETAS), ("DDPMScheduler", PLAIN), ("LCMScheduler", PLAIN), ("TCDScheduler", PLAIN),
    ("HeunDiscreteScheduler", BETAS), ("UniPCMultistepScheduler", BETAS), ("DPMSolverMultistepScheduler", BETAS),
    ("DPMSolverMultistepScheduler", {**BETAS, "solver_order": 1, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", BETAS), ("KDPM2DiscreteScheduler", BETAS), ("PNDMScheduler", BETAS),
    ("DEISMultistepScheduler", BETAS), ("FlowMatchHeunDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("DDIMScheduler", BETAS), ("DDIMScheduler", {**PLAIN, "thresholding": True}),
]


def made(name, config):
    return getattr(diffusers, name)(**config)


def noise(seed):
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "config"), FIRST)
def test_a_step_of_an_accepted_scheduler_is_that_of_cfg_plus_plus(name, config):
    """alpha' x0(g) + sigma' epsilon(u), g = u + lambda (c - u), at every step of a run, the last included."""
    scheduler = made(name, config)
    scheduler.set_timesteps(7)
    check_sampler(RULES, scheduler, {})
    path, x = trajectory(scheduler), noise(0) * getattr(scheduler, "init_noise_sigma", 1.0)
    shown = (lambda x, t: scheduler.scale_model_input(x, t)) if hasattr(scheduler, "scale_model_input") else lambda x, t: x
    for i, t in enumerate(scheduler.timesteps):
        at, cond, null = shown(x, t), noise(2 * i + 1), noise(2 * i + 2)
        step = path.step(i, at, Streams([]))
        w = CFGpp(0.6).known(step)
        x = scheduler.step(null + w * (cond - null), t, x, return_dict=False)[0]
        here = (at, step.alpha, step.sigma, step.space)
        if step.alpha == 0:  # a flow's pure noise: the noise is x
            clean, left = at - (null + 0.6 * (cond - null)), at
        else:
            clean, left = convert(null + 0.6 * (cond - null), *here, "x0"), convert(null, *here, "epsilon")
        alpha, sigma = step.next
        found = shown(x, scheduler.timesteps[i + 1]) if i + 1 < len(scheduler.timesteps) else x
        torch.testing.assert_close(found.double(), alpha * clean + sigma * left, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "config"), OTHERS)
def test_other_schedulers_are_refused(name, config):
    with pytest.raises(Unsupported, match=f"cfg at the scale cfg\\+\\+ is exact for first-order .* {name} here"):
        check_sampler(RULES, made(name, config), {})
    check_sampler((emag.CFG(4.0),), made(name, config), {})


def test_eta_and_unknown_schedulers():
    with pytest.raises(Unsupported, match=r"adds noise \(eta=0.5\)"):
        check_sampler(RULES, made("DDIMScheduler", PLAIN), {"eta": 0.5})
    with pytest.raises(Unsupported, match="SimpleNamespace here is of a higher order"):
        check_sampler(RULES, SimpleNamespace(), {})
    assert all(hasattr(diffusers, name) for name in SCHEDULERS)


@pytest.mark.parametrize("rule", [
    emag.CFG(CFGpp(0.6)), emag.CFG(Annealing(0.4, "head.safetensors")), METHODS["fdg"]((CFGpp(0.5), Constant(2.0))),
    Compose("uncond", (Term(CFGpp(0.5), "cond", "uncond"),)),
])
def test_wherever_the_schedule_is(rule):
    assert needy((emag.EMAG(2.0), rule)).startswith(rule.name)
    assert needy((emag.EMAG(2.0), emag.CFG(Annealing(0.4, "head.safetensors", renoise=False)), emag.CFG(3.0))) is None


@pytest.mark.parametrize("solver", [UniPC(2), UniPC(1), DCSolver(), ReverseSDE()])
def test_our_own_solvers(solver):
    calls = []
    model = emag.guided(lambda x, t, c: calls.append(1) or x * c, *RULES, path=Path.flow((1.0, 0.5, 0.0)),
                        conditions={"cond": 1.0, "uncond": 0.5})
    with pytest.raises(Unsupported, match=f"first-order deterministic steps only, and {re.escape(solver.name)} makes"):
        sample(model, torch.randn(1, 2), solver=solver)
    assert not calls
    sample(model, torch.randn(1, 2))
    assert len(calls) == 4


def test_a_pipeline_is_refused_before_its_network_is_called():
    pipe, calls = quiet(dit()), []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(Unsupported, match="UniPCMultistepScheduler"), emag.guide(pipe, *RULES):
        pipe(**dit_call())
    handle.remove()
    assert not calls
