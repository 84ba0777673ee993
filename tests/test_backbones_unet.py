"""U-Nets and their pipelines: blocks of several sizes, in three groups, and schedulers with noise beside the data."""

import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPAGPipeline, StableDiffusionXLPAGPipeline, UNet2DModel

import emag
from emag.core import COND, Rule, State
from emag.engine.network import read_network
from emag.engine.trajectory import trajectory
from emag.families.stable_diffusion import FAMILY
from emag.hosts.defaults import resolve
from emag.maths.predictions import to_x0
from emag.methods import METHODS as C
from emag.methods.combining.compose import Compose, Term
from emag.methods.emag.compat import Compat
from emag.methods.weak import seg as smoothed
from emag.methods.weak.sag import on_pixels
from emag.testing.small import noise
from emag.testing.small_unet import MORE, ddim, sd, sd_call, sdxl, sdxl_call, unet
from spy import attribute, changes, denoiser_of, network_outputs, scheduler_steps, snapshot
from test_backbones_separate import in_dtype, rows_evaluated, size_of

ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if c.uncond], ids=[n for n in MORE if n != "lcm"])
BOTH = pytest.mark.parametrize("name", ["sd", "sdxl"])
LATE = pytest.mark.parametrize("name", [n for n in MORE if "img2img" in n or "inpaint" in n])
WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"window": WINDOW, **more})


def run_under(case, pipe, *rules, seeds=(8, 9), **more):
    with emag.guide(pipe, *rules) as run:
        return case.run(pipe, seeds, **more), run


# nothing stays; at the planned cost


@ALL
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in ((), (EMAG(1.0),)):
        assert torch.equal(run_under(case, pipe, *rules)[0], plain)
        assert changes(before, snapshot(pipe)) == []
    run_under(case, pipe, EMAG())
    assert changes(before, snapshot(pipe), own=False) == []


@ALL
def test_emag_acts_as_planned(case):
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(SimpleNamespace(transformer=pipe.unet))
    made, run = run_under(case, pipe, EMAG())
    assert not torch.allclose(made, plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2
    assert run.stats.effect > 1e-3 and sum(effect is not None for effect in run.stats.effects) >= 3


@BOTH
@pytest.mark.parametrize("variant", ["query", "map"])
def test_candidates_may_have_several_sizes(name, variant):
    case = MORE[name]
    layers = (0, *read_network(case.pipe().unet).middle)
    _, run = run_under(case, case.pipe(), EMAG(layers=layers, variant=variant))
    picked = {block for row in run.stats.picks if row for block in row}
    assert picked <= set(layers) and run.stats.evaluations == run.stats.planned


# a resumed pass: what is skipped hands on what the clean pass had there, which the way up reads too


BLOCKS = [pytest.param(name, at, id=f"{name}-{at}") for name, depth in (("sd", 4), ("sdxl", 8)) for at in range(depth)] + [
    pytest.param(name, 2, id=f"{name}-2") for name in ("sd-control", "sd-adapter", "sd-inpaint", "lcm")]


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_resumed_weak_pass_equals_the_full_one(name, block):
    case, made = MORE[name], []
    pipe = case.pipe()
    for resume in (True, False):
        with network_outputs(pipe) as seen:
            _, run = run_under(case, pipe, EMAG(layers=(block,), compat=Compat(resume=resume)), num_inference_steps=5)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert made[1][1] - made[0][1] == passes * block and passes


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_resumed_pass_without_a_block_is_the_network_with_that_block_doing_nothing(name, block):
    case, seen = MORE[name], []
    pipe = case.pipe()
    original, network = pipe.unet.forward, read_network(pipe.unet)

    def forward(*args, **kwargs):
        added = kwargs.get("down_intrablock_additional_residuals")
        copied = kwargs if added is None else {**kwargs, "down_intrablock_additional_residuals": list(added)}
        answer = original(*args, **kwargs)
        seen.append((args, copied, answer[0].clone()))
        return answer

    with attribute(pipe.unet, "forward", forward):
        run_under(case, pipe, C["slg"](2.0, layers=(block,)), num_inference_steps=3)
    assert len(seen) == (4 if name == "sd-inpaint" else 6)
    with attribute(network.blocks[block].module, "forward", lambda hidden_states, *args, **more: hidden_states):
        for (args, kwargs, clean), (others, _, got) in zip(seen[::2], seen[1::2], strict=True):
            rows = slice(len(clean) - len(got), None)
            assert len(others) == len(args) and size_of(got - clean[rows]) > 1e-3
            expected = original(*args, **kwargs)[0][rows]
            assert size_of(got - expected) < 2e-4 * size_of(expected)


def test_residuals_of_an_adapter_are_there_in_every_pass():
    """The network takes them out of the list it is given."""
    case, counts = MORE["sd-adapter"], []
    pipe = case.pipe()
    original = pipe.unet.forward

    def forward(*args, **kwargs):
        counts.append(len(kwargs["down_intrablock_additional_residuals"]))
        return original(*args, **kwargs)

    with attribute(pipe.unet, "forward", forward):
        run_under(case, pipe, C["pag"](2.0), num_inference_steps=3)
        run_under(case, pipe, C["pag"](2.0), num_inference_steps=3, guidance_scale=1.0)
    assert counts == [2] * 12


# batches


@ALL
def test_an_image_is_the_same_alone(case):
    made = [run_under(case, case.pipe(), EMAG(), C["pag"](1.5), seeds=seeds)[0] for seeds in ((8, 9), (9,))]
    assert size_of(made[0][1:] - made[1]) < 3e-4 * max(1.0, float(size_of(made[1])))


# what the scheduler gets


@WITH_UNCOND
def test_the_scheduler_gets_exactly_our_cfg(case):
    pipe = case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given:
        _, run = run_under(case, pipe, EMAG(), emag.CFG(3.0), guidance_scale=7.0)
    for effect, got in zip(run.stats.effects, given, strict=True):
        (uncond, cond), weak = raw.pop(0).chunk(2), raw.pop(0) if effect is not None else None
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, pred + 2.0 * (pred - uncond))
    assert raw == []


@WITH_UNCOND
def test_our_cfg_is_the_hosts_own(case):
    pipe = case.pipe()
    own, off = (case.run(pipe, guidance_scale=scale) for scale in (3.0, 1.0))
    ours, one = (run_under(case, pipe, emag.CFG(scale), guidance_scale=7.0)[0] for scale in (3.0, 1.0))
    assert size_of(ours - own) < 3e-4 * size_of(own) and size_of(ours - off) > 1e-2
    assert size_of(one - off) < 3e-4 * size_of(off)


@BOTH
def test_the_rescale_of_a_host_changes_nothing_where_we_combine(name):
    case = MORE[name]
    made = [run_under(case, case.pipe(), emag.CFG(4.0), guidance_rescale=phi)[0] for phi in (0.0, 0.7)]
    assert size_of(made[0] - made[1]) < 1e-4 * size_of(made[0])
    assert size_of(case.run(case.pipe(), guidance_rescale=0.7) - made[0]) > 1e-2


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize(("make", "call", "theirs"), [(sd, sd_call, StableDiffusionPAGPipeline),
                                                      (sdxl, sdxl_call, StableDiffusionXLPAGPipeline)], ids=["sd", "sdxl"])
def test_pag_is_that_of_diffusers(make, call, theirs, guidance):
    pipe = make()
    other = theirs.from_pipe(pipe, pag_applied_layers="mid")
    other.set_progress_bar_config(disable=True)
    rules = (emag.CFG(guidance), C["pag"](4.0)) if guidance > 1 else (C["pag"](4.0),)
    with scheduler_steps(other) as expected:
        other(**call(guidance_scale=guidance), pag_scale=3.0)
    with scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        pipe(**call(guidance_scale=guidance))
    assert run.resolved[-1].layers == read_network(pipe.unet).middle and len(given) == len(expected) == 8
    for made, wanted in zip(given, expected, strict=True):
        assert size_of(made - wanted) < 3e-4 * size_of(wanted)


# every kind of method


RULES = {"pag": C["pag"](2.0), "seg": C["seg"](2.0), "slg": C["slg"](2.0), "stg": C["stg"](2.0, form="attention"),
         "tpg": C["tpg"](2.0), "asag": C["asag"](2.0), "erg": C["erg"](), "nag": C["nag"](), "vsf": C["vsf"](),
         "pladis": C["pladis"](), "sag": C["sag"](), "s2": C["s2"](2.0, 0.4), "tsg": C["tsg"](2.0), "icg": C["icg"](),
         "cads": emag.CADS(0.3, 0.3, 0.9, 0.7), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5),
         "fdg": C["fdg"]((3.0, 2.0)), "ag": C["ag"](-2.0), "tcfg": C["tcfg"]()}


@BOTH
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_other_methods_act_as_planned(name, rule):
    case, rules = MORE[name], (rule, emag.CFG(4.0)) if rule.kind == "null" else (rule,)
    pipe = case.pipe()
    made, run = run_under(case, pipe, *rules, num_inference_steps=4)
    assert made.isfinite().all() and size_of(made - case.run(pipe, num_inference_steps=4)) > 1e-3
    assert run.stats.evaluations == run.stats.planned or rule.name == "ag"


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_whose_sides_do_not_halve(name, dtype):
    """Latents of 9 x 5, 5 x 3 at the bottom."""
    case = MORE[name]
    pipe = case.pipe().to(dtype)
    call = in_dtype(case.call((8,), height=72, width=40), dtype)
    with emag.guide(pipe, EMAG(), C["seg"](1.3, layers=(0, 2), sigma=1.0), C["sag"](1.2, layers=(2,))) as run:
        made = pipe(**call).images
    assert made.shape[2:] == (9, 5) and made.isfinite().all()
    assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned


@BOTH
def test_a_text_of_one_token(name):
    case = MORE[name]
    short = {key: value[:, :1] for key, value in case.call().items() if key.endswith("prompt_embeds") and value.ndim == 3}
    made, run = run_under(case, case.pipe(), EMAG(), C["nag"](), num_inference_steps=4, **short)
    assert made.isfinite().all() and run.stats.evaluations == run.stats.planned


# the token grid of each block


def test_each_block_has_its_grid(monkeypatch):
    grids, original = [], smoothed.smoothed
    monkeypatch.setattr(smoothed, "smoothed", lambda q, grid, sigma: grids.append(grid) or original(q, grid, sigma))
    run_under(MORE["sd"], sd(), C["seg"](2.0, layers=(0, 1, 2), sigma=1.0), num_inference_steps=1, height=72, width=40)
    assert grids == [(9, 5), (5, 3), (9, 5)]


@pytest.mark.parametrize(("grid", "tokens", "expected"), [
    ((9, 5), 45, (9, 5)), ((9, 5), 15, (5, 3)), ((9, 5), 6, (3, 2)), ((9, 5), 2, (2, 1)), ((9, 5), 1, (1, 1)),
    ((3, 8, 6), 36, (3, 4, 3)), ((9, 5), 40, (9, 5)), ((9, 5), 90, (9, 5)), ((3, 1, 1), 2, (3, 1, 1))])
def test_grids_are_halved_rounding_up(grid, tokens, expected):
    state = State()
    state.place(grid)
    assert state.grid_of(tokens) == expected


@pytest.mark.parametrize(("height", "width", "side"), [(9, 5, 2), (25, 17, 8), (8, 8, 4), (64, 48, 8), (6, 6, 3)])
def test_token_values_lie_on_their_pixels(height, width, side):
    rows, columns = -(-height // side), -(-width // side)
    values = torch.arange(rows * columns).view(1, -1)
    made = on_pixels(values, (1, 4, height, width))
    y, x = torch.arange(height) // side, torch.arange(width) // side
    assert torch.equal(made[0, 0], y[:, None] * columns + x[None])


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
    with pytest.raises(emag.Unsupported, match="not a supported network"):
        read_network(UNet2DModel(block_out_channels=(8,), norm_num_groups=2, down_block_types=("DownBlock2D",),
                         up_block_types=("UpBlock2D",), attention_head_dim=2))
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


def with_ip_adapter(pipe):
    net, state = pipe.unet, {}
    crossing = [name for name in net.attn_processors if name.endswith("attn2.processor")]
    for at, name in enumerate(crossing):
        inner = net.get_submodule(name.removesuffix(".processor")).inner_dim
        state |= {f"{2 * at + 1}.to_{key}_ip.weight": noise(80 + at, inner, 12) for key in "kv"}
    proj = {"proj.weight": noise(90, 48, 6), "proj.bias": noise(91, 48), "norm.weight": torch.ones(12),
            "norm.bias": torch.zeros(12)}
    net._load_ip_adapter_weights([{"ip_adapter": state, "image_proj": proj}])
    return pipe


@pytest.mark.parametrize("name", ["pag", "emag", "nag", "vsf", "pladis"])
def test_a_picture_in_the_cross_attention_stays(name):
    pipe, case = with_ip_adapter(sd()), MORE["sd"]
    more = {"ip_adapter_image_embeds": [noise(95, 2, 1, 6)], "num_inference_steps": 4}
    plain, other = case.run(pipe, **more), case.run(pipe, **{**more, "ip_adapter_image_embeds": [noise(96, 2, 1, 6)]})
    made, run = run_under(case, pipe, EMAG() if name == "emag" else RULES[name], **more)
    assert size_of(plain - other) > 1e-2 and size_of(made - plain) > 1e-3 and run.stats.evaluations == run.stats.planned
    alone = run_under(case, pipe, EMAG() if name == "emag" else RULES[name], seeds=(9,), **more)[0]
    assert size_of(made[1:] - alone) < 3e-4 * size_of(alone)
