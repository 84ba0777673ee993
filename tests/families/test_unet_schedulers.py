"""U-Nets and their schedulers, late starts, refusals, names of blocks and conditions."""

import inspect
from dataclasses import dataclass, field

import diffusers
import pytest
import torch
from diffusers import UNet2DModel

import emag
from adapters import with_unet_adapter
from emag.core import COND, Rule
from emag.engine.reading import read_network
from emag.engine.trajectory import trajectory
from emag.families.stable_diffusion import FAMILY
from emag.hosts.defaults import resolve
from emag.maths.predictions import to_x0
from emag.methods import METHODS as C
from emag.methods.combining.compose import Compose, Term
from emag.testing.small import noise
from emag.testing.small_unet import MORE, ddim, sd, sdxl, sdxl_call, unet
from separate import size_of
from spy import attribute, denoiser_of
from unet import BOTH, EMAG, RULES, WINDOW, run_under

LATE = pytest.mark.parametrize("name", [n for n in MORE if "img2img" in n or "inpaint" in n])


# schedulers: the network sees x at (alpha, sigma), also where the sampler's own x is larger


@dataclass(frozen=True)
class Look(Rule):
    """Notes x0 as we see it."""

    seen: list = field(default_factory=list, hash=False, compare=False)
    name = "look"
    kind = "combining"

    def apply(self, pred, branches, step, state):
        self.seen.append(to_x0(branches[COND], step.x, step.alpha, step.sigma, step.space))
        return branches[COND]


SCHEDULERS = [("DDIMScheduler", {}), ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
              ("EulerDiscreteScheduler", {}), ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
              ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
              ("EulerAncestralDiscreteScheduler", {}), ("LMSDiscreteScheduler", {}), ("HeunDiscreteScheduler", {}),
              ("KDPM2DiscreteScheduler", {}), ("DPMSolverMultistepScheduler", {}),
              ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}), ("UniPCMultistepScheduler", {})]


@pytest.mark.parametrize(("name", "more"), SCHEDULERS, ids=["-".join((name, *more)) for name, more in SCHEDULERS])
def test_our_x0_is_the_schedulers(name, more):
    scheduler, found, look = getattr(diffusers, name).from_config(ddim().config, **more), [], Look()
    pipe, original = sd(scheduler=scheduler), scheduler.step

    def step(*args, **kwargs):
        answer = original(*args, **{**kwargs, "return_dict": True})
        x0 = getattr(answer, "pred_original_sample", None)
        found.append(scheduler.model_outputs[-1] if x0 is None else x0)
        return (answer.prev_sample,)

    with attribute(scheduler, "step", step):
        _, run = run_under(MORE["sd"], pipe, look)
    assert len(found) == run.stats.steps >= 8
    for ours, theirs in zip(look.seen, found, strict=True):
        assert size_of(ours - theirs) < 5e-5 * size_of(theirs)


@pytest.mark.parametrize(("name", "more", "index"), [
    ("PNDMScheduler", {"skip_prk_steps": True}, (0, 1, 1, 2, 3, 4, 5, 6, 7)),
    ("HeunDiscreteScheduler", {}, (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)),
    ("DPMSolverSinglestepScheduler", {}, tuple(range(8)))])
def test_steps_are_distinct_timesteps(name, more, index):
    """Stable Diffusion's own scheduler, PNDM, evaluates its second timestep twice."""
    scheduler = getattr(diffusers, name).from_config(ddim().config, **more)
    pipe = sd(scheduler=scheduler)
    _, run = run_under(MORE["sd"], pipe, EMAG())
    path = trajectory(scheduler)
    phases = WINDOW.phases(path.sigmas)
    assert path.index == index and run.stats.evaluations == run.stats.planned
    assert [effect is not None for effect in run.stats.effects] == [phases[i] == "apply" for i in index]


def test_a_scheduler_of_another_process_is_refused():
    with pytest.raises(emag.Unsupported, match="variance preserving"):
        run_under(MORE["sd"], sd(scheduler=diffusers.EDMEulerScheduler()), EMAG())


# late starts


@LATE
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_a_window_counts_the_steps_that_are_run(name, scheduler):
    """DDIM is not told where it begins."""
    case = MORE[name]
    pipe = case.pipe()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(ddim().config)
    _, run = run_under(case, pipe, EMAG(), num_inference_steps=11, strength=0.61)
    distinct = list(dict.fromkeys(pipe.scheduler.timesteps.tolist()))[-6:]
    bars = [float(pipe.scheduler.alphas_cumprod[int(t)]) for t in distinct]
    phases = WINDOW.phases(tuple((1 - bar) ** 0.5 for bar in bars))
    acted = [effect is not None for effect in run.stats.effects]
    assert run.stats.evaluations == run.stats.planned
    assert acted == ([p == "apply" for p in phases] if scheduler != "HeunDiscreteScheduler" else
                     [phases[(i + 1) // 2] == "apply" for i in range(11)])


@LATE
@pytest.mark.parametrize("strength", [0.3, 0.61, 1.0])
def test_the_steps_known_before_a_run_are_those_made(name, strength):
    case = MORE[name]
    _, run = run_under(case, case.pipe(), C["slg"](1.2, layers=(1,)), seeds=(8,), num_inference_steps=7, strength=strength)
    assert run.host.steps(case.call((8,), num_inference_steps=7, strength=strength)) == run.stats.steps == int(7 * strength)


# what is refused, before anything is evaluated


@pytest.mark.parametrize(("name", "rule", "more", "reason"), [
    ("sdxl", "pag", {"denoising_end": 0.8}, "denoising_end"),
    ("sdxl-img2img", "pag", {"denoising_start": 0.5}, "denoising_start"),
    ("lcm", "apg", {}, "unconditional"),
    ("lcm", "nag", {}, "in one network call"),
    ("sd", "deep", {}, "blocks 0 to 3"),
    ("sd-upscale", "text-only", {}, "block 0 .* to the text")])
def test_what_cannot_work_is_refused_before_the_run(name, rule, more, reason):
    case, calls = MORE[name], []
    pipe = case.pipe()
    denoiser_of(pipe).register_forward_pre_hook(lambda *args: calls.append(1))
    rules = {**RULES, "deep": EMAG(layers=(16,)), "text-only": C["pag"](2.0, layers=(0,))}
    with pytest.raises((emag.Unsupported, emag.BadValue), match=reason):
        run_under(case, pipe, rules[rule], **more)
    assert calls == []


def test_the_guidance_embedding_leaves_cfg_out():
    """The scale of latent consistency models is an input of the network, and no combination."""
    pipe = sd(network=unet(time_cond_proj_dim=6))
    with pytest.raises(emag.BadValue, match="no unconditional rows"):
        run_under(MORE["sd"], pipe, emag.CFG(3.0))
    _, run = run_under(MORE["sd"], pipe, EMAG())
    assert run.stats.clean == 8 * 4


@pytest.mark.parametrize("host", FAMILY.pipelines, ids=lambda host: host.name)
def test_the_table_names_arguments_that_the_pipelines_have(host):
    asked = inspect.signature(getattr(diffusers, host.name).__call__).parameters
    named = {host.scale, host.strength, host.prompt, host.negative_prompt, *(name for name, _ in host.refused)} - {None}
    assert named <= set(asked) and host.sized == ("height" in asked)
    assert (host.strength is None) == ("strength" not in asked)
    assert {"denoising_start", "denoising_end"} & set(asked) <= named


def test_a_u_net_without_transformer_blocks_is_refused():
    with pytest.raises(emag.Unsupported, match="no transformer blocks"):
        read_network(UNet2DModel(block_out_channels=(8,), norm_num_groups=2, down_block_types=("DownBlock2D",),
                         up_block_types=("UpBlock2D",), attention_head_dim=2, add_attention=False))
    with pytest.raises(emag.Unsupported, match="no transformer blocks"):
        read_network(unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None))


# names and defaults of blocks


@BOTH
def test_blocks_are_numbered_as_they_are_evaluated(name):
    case, order = MORE[name], []
    pipe = case.pipe()
    network = read_network(pipe.unet)
    for block in network.blocks:
        block.module.register_forward_pre_hook(lambda *args, at=block.index: order.append(at))
    case.run(pipe, (8,), num_inference_steps=1)
    names = {module: name for name, module in pipe.unet.named_modules()}
    assert order == list(range(network.depth))
    assert [at for at in order if names[network.blocks[at].module].startswith("mid_block")] == list(network.middle)


def test_rules_without_layers_take_the_middle():
    models = ("UNet2DConditionModel",)
    assert resolve(C["pag"](), models, 16, (6,)) == C["pag"](4.0, layers=(6,))
    assert resolve(C["seg"](), models, 70, tuple(range(24, 34))).layers == tuple(range(24, 34))
    assert resolve(emag.EMAG(), models, 16, (6,)).layers == (6,)
    assert resolve(C["pag"](layers="auto"), models, 16, (6,)).layers == (6,)
    assert resolve(C["nag"](), models, 4, (1,)).layers == (0, 1, 2, 3)
    assert resolve(C["asag"](), ("SD3Transformer2DModel",), 24).layers == (12,)


# conditions: the pooled text of SDXL is an entry of a dict


def test_a_condition_rule_changes_the_pooled_text_alone():
    case, seen = MORE["sdxl"], []
    pipe = case.pipe()
    original = pipe.unet.forward

    def forward(*args, **kwargs):
        seen.append({"text": kwargs["encoder_hidden_states"], **kwargs["added_cond_kwargs"]})
        return original(*args, **kwargs)

    with attribute(pipe.unet, "forward", forward):
        case.run(pipe, num_inference_steps=2)
        run_under(case, pipe, emag.CADS(0.3, 0.3, 0.9, 0.7), num_inference_steps=2)
    seen = seen[::2]
    for name, same in (("text", False), ("text_embeds", False), ("time_ids", True)):
        assert torch.equal(seen[0][name], seen[1][name]) == same


@BOTH
def test_another_condition_is_that_condition(name):
    case, rule = MORE[name], Compose("uncond", (Term(3.0, "other"),))
    pipe = case.pipe()
    whole = {key: value for key, value in case.call((3,)).items() if key.endswith("prompt_embeds") and "negative" not in key}
    names = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "added_cond_kwargs.text_embeds"}
    other = {names[key]: value for key, value in whole.items()}
    with emag.guide(pipe, rule, conditions={"other": other}):
        made = case.run(pipe, (8,), num_inference_steps=4)
    expected = case.run(pipe, (8,), num_inference_steps=4, guidance_scale=3.0, **whole)
    assert size_of(made - expected) < 3e-4 * size_of(expected)


def test_an_unknown_condition_argument_is_refused():
    pipe = sdxl()
    with pytest.raises(emag.BadValue, match=r"added_cond_kwargs\.text_embeds"), emag.guide(
            pipe, C["negative"](2.0, "other"), conditions={"other": {"pooled": noise(1, 1, 10)}}):
        pipe(**sdxl_call())


@pytest.mark.parametrize(("make", "answer"), [(sd, 2), (sdxl, 4)])
def test_prompts_are_encoded_as_the_host_does(make, answer):
    pipe, asked = make(), []
    signature = inspect.signature(pipe.encode_prompt)

    def encode_prompt(*args, **kwargs):
        asked.append(signature.bind(*args, **kwargs).arguments)
        return tuple(torch.full((1, 3, 12), float(at)) for at in range(answer))

    pipe.encode_prompt = encode_prompt
    found = FAMILY.networks[0].encode(pipe, ["a fox"])
    assert [float(value.mean()) for value in found.values()] == ([0.0, 2.0] if answer == 4 else [0.0])
    assert asked[0]["prompt"] == ["a fox"] and asked[0]["do_classifier_free_guidance"] is False


# an IP-Adapter: its cross-attention makes a second call, to the picture


@pytest.mark.parametrize("name", ["pag", "emag", "nag", "vsf", "pladis"])
def test_a_picture_in_the_cross_attention_stays(name):
    pipe, case = with_unet_adapter(sd()), MORE["sd"]
    more = {"ip_adapter_image_embeds": [noise(95, 2, 1, 6)], "num_inference_steps": 4}
    plain, other = case.run(pipe, **more), case.run(pipe, **{**more, "ip_adapter_image_embeds": [noise(96, 2, 1, 6)]})
    made, run = run_under(case, pipe, EMAG() if name == "emag" else RULES[name], **more)
    assert size_of(plain - other) > 1e-2 and size_of(made - plain) > 1e-3 and run.stats.evaluations == run.stats.planned
    alone = run_under(case, pipe, EMAG() if name == "emag" else RULES[name], seeds=(9,), **more)[0]
    assert size_of(made[1:] - alone) < 3e-4 * size_of(alone)
