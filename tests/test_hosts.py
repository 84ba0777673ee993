"""Pipelines as hosts: what reaches the scheduler, what is refused, and every way to call a pipeline."""

import logging

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import emag
from cases import ALL, EMAG, EVERY, WITH_UNCOND
from spy import Counter, changes, network_outputs, scheduler_steps, snapshot
from tiny import CASES, dit, flux, flux_call, noise, sd3, sd3_call, true_cfg_call

# What the scheduler gets


def clean_branches(run, raw, channels):
    """Conditional and unconditional predictions of each step, and the weak one or None, from what the network returned."""
    raw, steps = list(raw), []
    for effect in run.stats.effects:
        answer = raw.pop(0)
        if run.host.layout == "calls":
            weak = raw.pop(0) if effect is not None else None
            steps.append((answer, raw.pop(0) if len(raw) and run.stats.clean > run.stats.steps * run.stats.depth else None,
                          weak))
            continue
        first, second = answer.chunk(2)
        cond, uncond = (second, first) if run.host.layout == "neg-pos" else (first, second)
        steps.append((cond, uncond, raw.pop(0) if effect is not None else None))
    assert raw == []
    return [tuple(None if p is None else p[:, :channels] for p in step) for step in steps]


def channels_of(case):
    return 4 if case.name in ("dit", "pixart", "sigma") else None


def received(case, model_output):
    """Predictions that the scheduler was handed, one per image."""
    model_output = model_output[:, :channels_of(case)]
    if case.name == "dit":
        first, second = model_output.chunk(2)
        assert torch.equal(first, second)
        return first
    return model_output


def traced(case, pipe, *rules, **call):
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    return run, clean_branches(run, raw, channels_of(case)), [received(case, g) for g in given]


@WITH_UNCOND
@pytest.mark.parametrize("host_scale", [1.5, 4.0, 33.0])
def test_the_scheduler_gets_exactly_our_cfg(case, host_scale):
    _, branches, given = traced(case, case.pipe(), emag.CFG(3.0), **{case.scale: host_scale})
    assert len(given) == 8
    for (cond, uncond, _), got in zip(branches, given, strict=True):
        assert torch.equal(got, cond + 2.0 * (cond - uncond))


@WITH_UNCOND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scheduler_gets_exactly_our_cfg_in_half_precision(case, dtype):
    pipe = case.pipe().to(dtype)
    call = {k: v.to(dtype) for k, v in case.call().items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    _, branches, given = traced(case, pipe, EMAG(1.4), emag.CFG(3.0), **call)
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        assert got.dtype == cond.dtype == dtype and got.isfinite().all()
        cond, uncond = cond.float(), uncond.float()
        pred = cond if weak is None else cond + (1.4 - 1) * (cond - weak.float())
        assert torch.equal(got, (pred + 2.0 * (pred - uncond)).to(dtype))
    assert sum(weak is not None for _, _, weak in branches) > 2


@WITH_UNCOND
def test_our_cfg_equals_the_hosts_own(case):
    pipe = case.pipe()
    own = case.run(pipe, **{case.scale: 3.0})
    with emag.guide(pipe, emag.CFG(3.0)):
        ours = case.run(pipe, **{case.scale: 7.0})
    assert (ours - own).abs().max() < 1e-4 * own.abs().max()


@WITH_UNCOND
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    run, branches, given = traced(case, case.pipe(), EMAG(1.5), **{case.scale: 4.0})
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, uncond + 4.0 * (pred - uncond))
    assert sum(weak is not None for _, _, weak in branches) == 6
    assert run.stats.steps == 8


def test_guidance_distilled_models_get_the_moved_prediction():
    case = CASES["flux"]
    _, branches, given = traced(case, case.pipe(), EMAG(1.5))
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        assert uncond is None
        assert torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


@WITH_UNCOND
def test_weak_rules_work_where_the_host_does_no_cfg(case):
    _, branches, given = traced_without_cfg(case, EMAG(1.5))
    for (cond, weak), got in zip(branches, given, strict=True):
        assert torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


def traced_without_cfg(case, *rules):
    pipe = case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **{case.scale: 1.0})
    raw = [r[:, :channels_of(case)] for r in raw]
    branches = [(raw.pop(0), raw.pop(0) if effect is not None else None) for effect in run.stats.effects]
    assert run.stats.clean == run.stats.steps * run.stats.depth
    return run, branches, [g[:, :channels_of(case)] for g in given]


@WITH_UNCOND
def test_the_scheduler_gets_our_apg(case):
    """APG recomputed here from the network's own answers, on predictions of x0."""
    pipe, xs = case.pipe(), []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: xs.append(kwargs.get("hidden_states", args[0] if args else None)), with_kwargs=True)
    _, branches, given = traced(case, pipe, emag.APG(3.0, norm_threshold=2.5, momentum=-0.5))
    handle.remove()
    xs = xs[::2] if case.name == "true-cfg" else xs
    momentum = 0.0
    for i, ((cond, uncond, _), got) in enumerate(zip(branches, given, strict=True)):
        alpha, sigma = level(pipe, i)
        x = xs[i][:len(cond)].double()
        c, u = (x0(p.double(), x, alpha, sigma) for p in (cond, uncond))
        total = c - u - 0.5 * momentum
        momentum = total
        dims = tuple(range(1, c.ndim))
        norm = total.square().sum(dims, keepdim=True).sqrt()
        capped = total * (2.5 / norm).clamp(max=1)
        parallel = (capped * c).sum(dims, keepdim=True) / (c * c).sum(dims, keepdim=True) * c
        moved = 2.0 * (capped - parallel)
        expected = cond.double() + (-moved / sigma if alpha is None else -moved * alpha / sigma)
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
        assert not torch.allclose(got, cond, rtol=1e-3)


def level(pipe, i):
    """alpha and sigma of step i; alpha None in flow matching."""
    t = pipe.scheduler.timesteps[i].item()
    if "FlowMatch" in type(pipe.scheduler).__name__:
        return None, t / 1000
    bar = pipe.scheduler.alphas_cumprod[int(t)].double().item()
    return bar**0.5, (1 - bar)**0.5


def x0(p, x, alpha, sigma):
    return x - sigma * p if alpha is None else (x - sigma * p) / alpha


@WITH_UNCOND
def test_one_line_says_that_the_hosts_scale_is_ignored(case, caplog):
    pipe = case.pipe()
    with caplog.at_level(logging.WARNING, logger="emag"):
        with emag.guide(pipe, EMAG()):
            case.run(pipe)
        assert caplog.records == []
        with emag.guide(pipe, EMAG(), emag.APG(3.0, norm_threshold=1.0, momentum=0.0)):
            case.run(pipe)
    assert [r.name for r in caplog.records] == ["emag"]
    assert case.scale in caplog.records[0].getMessage() and "ignored" in caplog.records[0].getMessage()


# What is refused, before any denoising


def counted(pipe):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@EVERY
@pytest.mark.parametrize("rule", [emag.CFG(3.0), emag.APG(3.0, norm_threshold=1.0, momentum=0.0)], ids=["cfg", "apg"])
def test_a_combiner_without_unconditional_rows_is_refused(case, rule):
    pipe = case.pipe()
    calls, before = counted(pipe), snapshot(pipe)
    off, scale = ({case.scale: 1.0}, case.scale) if case.uncond else ({}, "true_cfg_scale")
    with pytest.raises(emag.BadValue, match=f"{rule.name}.*{scale}"), emag.guide(pipe, rule):
        case.run(pipe, **off)
    assert calls == [] and changes(before, snapshot(pipe)) == []


def test_true_cfg_needs_a_negative_prompt_for_a_combiner():
    pipe = flux()
    with pytest.raises(emag.BadValue, match="negative_prompt"), emag.guide(pipe, emag.CFG(3.0)):
        pipe(**flux_call(true_cfg_scale=4.0))


def test_two_combiners_are_refused():
    with pytest.raises(emag.BadValue, match="cfg and apg"):
        emag.guide(sd3(), emag.CFG(3.0), emag.APG(3.0)).__enter__()


@ALL
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 28, 50])
def test_windows_at_any_number_of_steps(case, count):
    """`Window.published` and progress windows either run as planned, or are refused before the run."""
    pipe = case.pipe()
    calls = counted(pipe)
    for window in (emag.Window.published(250, 50, 50), emag.Window.progress(0, 0.2, 1.0))[:1 if count > 8 else 2]:
        calls.clear()
        phases = window.phases(tuple(1 - i / count for i in range(count)))
        with emag.guide(pipe, EMAG(window=window)) as run:
            if "apply" not in phases:
                with pytest.raises(emag.BadValue, match="no weak pass"):
                    case.run(pipe, (1,), num_inference_steps=count)
                assert calls == [] and run.latest is None
                continue
            case.run(pipe, (1,), num_inference_steps=count)
        assert [e is not None for e in run.stats.effects] == [p == "apply" for p in phases]
        assert run.stats.evaluations == run.stats.planned
    if count == 1:
        assert calls == []


@ALL
def test_an_empty_sigma_window_is_refused_before_any_denoising(case):
    pipe = case.pipe()
    blocks = Counter(pipe.transformer, "attn" if hasattr(pipe.transformer.transformer_blocks[0], "attn") else "attn1")
    with pytest.raises(emag.BadValue, match="no weak pass"):
        with emag.guide(pipe, EMAG(window=emag.Window.sigma(0.9, 0.895, 0.001))):
            case.run(pipe, num_inference_steps=2)
    assert blocks.blocks == {}


def test_an_unsupported_pipeline_names_the_supported_ones():
    class OtherPipeline(DiffusionPipeline):
        def __call__(self):
            return None

    with pytest.raises(emag.Unsupported, match=r"OtherPipeline is not a supported pipeline.*emag\.register"):
        emag.guide(OtherPipeline(), EMAG()).__enter__()
    with pytest.raises(emag.Unsupported, match="`emag models` lists those"):
        emag.guide(object(), EMAG()).__enter__()


def test_an_unsupported_network_names_the_supported_ones():
    pipe = sd3()
    pipe.transformer = torch.nn.Linear(1, 1)
    with pytest.raises(emag.Unsupported, match=r"Linear is not a supported network.*emag\.register"):
        emag.guide(pipe, EMAG()).__enter__()


@ALL
@pytest.mark.parametrize("layers", [(99,), (-1,), (0, 5)])
def test_wrong_layers_are_refused_at_once(case, layers):
    pipe = case.pipe()
    before = snapshot(pipe)
    with pytest.raises(emag.BadValue, match=r"blocks 0 to"):
        emag.guide(pipe, EMAG(layers=layers)).__enter__()
    assert changes(before, snapshot(pipe)) == []


def test_a_subclass_of_a_pipeline_is_supported():
    class Mine(type(sd3())):
        pass

    pipe = sd3()
    pipe.__class__ = Mine
    with emag.guide(pipe, EMAG()) as run:
        pipe(**sd3_call())
    assert type(pipe) is Mine and run.stats.effect > 0


def test_something_that_is_not_a_rule_is_refused():
    with pytest.raises(emag.BadValue, match="made of rules"):
        emag.guide(sd3(), 1.5).__enter__()


# The host's own skip-layer guidance


SLG = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": 0.0,
       "skip_layer_guidance_stop": 1.0}


def test_the_hosts_skip_layer_guidance_adds_to_ours():
    case, pipe = CASES["sd3"], sd3()
    plain, plain_slg = case.run(pipe), case.run(pipe, **SLG)
    counter = Counter(pipe.transformer, "attn")
    with emag.guide(pipe, EMAG()) as run:
        guided = case.run(pipe)
        without = run.stats.evaluations
        counter.blocks.clear()
        both = case.run(pipe, **SLG)
    assert not torch.equal(both, guided) and not torch.equal(both, plain_slg) and not torch.equal(plain, plain_slg)
    assert run.stats.evaluations == run.stats.planned == without
    third = sum(counter.blocks.values()) // 2 - without
    assert third > 0 and third % 3 == 0  # three of four blocks, one row


def test_the_hosts_skip_layer_guidance_sees_the_condition_that_cads_made():
    """The third call of a step gets the noised condition of that step's conditional rows."""
    pipe, seen = sd3(), []
    original = pipe.transformer.forward

    def forward(**kwargs):
        seen.append((kwargs.get("skip_layers"), kwargs["encoder_hidden_states"].clone()))
        return original(**kwargs)

    pipe.transformer.__dict__["forward"] = forward
    with emag.guide(pipe, emag.CADS(0.3, tau1=0.1, tau2=0.9, psi=0.5), EMAG()):
        pipe(**sd3_call(**SLG))
    third = 0
    for skip, text in seen:
        if skip is None and text.shape[0] == 4:
            noised = text[2:]
        if skip is not None:
            assert torch.equal(text, noised)
            third += 1
    assert third > 4


def test_a_combiner_refuses_the_hosts_skip_layer_guidance():
    pipe = sd3()
    calls = counted(pipe)
    with pytest.raises(emag.Unsupported, match="skip_guidance_layers"), emag.guide(pipe, emag.CFG(3.0)):
        pipe(**sd3_call(**SLG))
    assert calls == []


# Ways to call


@ALL
def test_several_images_per_prompt(case):
    if case.name == "dit":
        pytest.skip("DiTPipeline has no such argument")
    pipe = case.pipe()
    latents = case.call((1, 2))
    if case.name == "sd3":  # the pipeline repeats prompts, but not embeddings
        pair = case.call((8, 8))
        more = {name: pair[name] for name in pair if "embeds" in name}
    else:
        more = {"num_images_per_prompt": 2}
    with emag.guide(pipe, EMAG()) as run:
        out = case.run(pipe, (8,), **more, generator=latents["generator"])
        assert run.stats.images == 2
        one = case.run(pipe, (8,), generator=torch.Generator().manual_seed(2))
    assert (out[1:] - one).abs().max() < (5e-4 if case.name in ("pixart", "sigma") else 1e-4) * one.abs().max()


@ALL
def test_two_calls_in_one_block_are_two_runs(case):
    pipe = case.pipe()
    with emag.guide(pipe, EMAG(), *((emag.APG(3.0, norm_threshold=2.5, momentum=-0.5),) if case.uncond else ())) as run:
        first = case.run(pipe)
        stats = run.stats
        case.run(pipe, (1, 2, 3), num_inference_steps=5)
        assert run.stats.images == 3 and run.stats.steps == 5
        assert torch.equal(case.run(pipe), first)
    assert {**run.stats.as_dict(), "seconds": 0} == {**stats.as_dict(), "seconds": 0}


@ALL
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_under_any_gradient_mode(case, context):
    pipe = case.pipe()
    rules = (EMAG(), emag.CFG(3.0)) if case.uncond else (EMAG(),)
    with emag.guide(pipe, *rules):
        expected = case.run(pipe)
        with context():
            assert torch.equal(case.run(pipe), expected)
        assert torch.equal(case.run(pipe), expected)


@ALL
def test_plain_tuples(case):
    pipe = case.pipe()
    with emag.guide(pipe, EMAG()):
        expected = case.run(pipe)
        answer = pipe(**case.call(return_dict=False))
    assert isinstance(answer, tuple)
    assert torch.equal(torch.as_tensor(answer[0]), torch.as_tensor(expected))


def test_positional_arguments():
    pipe = dit()
    with emag.guide(pipe, EMAG(), emag.CFG(2.0)) as run:
        expected = CASES["dit"].run(pipe)
        generators = CASES["dit"].call()["generator"]
        assert torch.equal(pipe([56, 63], 4.0, generators, 8, "pt").images, expected)
    assert run.stats.steps == 8
    pipe = sd3()
    with emag.guide(pipe, EMAG(), emag.CFG(2.0)):
        expected = CASES["sd3"].run(pipe)
        call = sd3_call()
        height, width, steps = (call.pop(name) for name in ("height", "width", "num_inference_steps"))
        scale = call.pop("guidance_scale")
        assert torch.equal(pipe(None, None, None, height, width, steps, None, scale, **call).images, expected)
    with pytest.raises(TypeError), emag.guide(pipe, EMAG()):
        pipe(no_such_argument=1)


@pytest.mark.parametrize("name", ["sd3", "flux", "true-cfg"])
def test_custom_sigmas(name):
    case, pipe = CASES[name], CASES[name].pipe()
    sigmas = [1.0, 0.8, 0.6, 0.35, 0.1]
    with emag.guide(pipe, EMAG()) as run:
        out = case.run(pipe, sigmas=sigmas, num_inference_steps=28)
        assert run.stats.steps == 5 and run.stats.evaluations == run.stats.planned
        alone = case.run(pipe, (8,), sigmas=sigmas)
    assert (out[:1] - alone).abs().max() < 1e-4 * out.abs().max()
    with pytest.raises(emag.BadValue, match="no weak pass"), emag.guide(pipe, EMAG()):
        case.run(pipe, sigmas=[1.0], num_inference_steps=28)


@pytest.mark.parametrize("name", ["pixart", "sigma"])
def test_custom_timesteps(name):
    case, pipe = CASES[name], CASES[name].pipe()
    pipe.scheduler = DDPMScheduler()
    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe, timesteps=[900, 700, 500, 300, 100])
    assert run.stats.steps == 5 and run.stats.evaluations == run.stats.planned


def test_a_second_order_scheduler_evaluates_steps_twice():
    """The window follows distinct timesteps: both evaluations of one timestep are in, or both are out."""
    case, pipe = CASES["sd3"], sd3()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    plain = case.run(pipe)
    counter = Counter(pipe.transformer, "attn")
    window = emag.Window.index(7, 2, 1)
    with emag.guide(pipe, EMAG(window=window), emag.CFG(3.0)) as run:
        guided = case.run(pipe)
    assert not torch.equal(plain, guided) and guided.isfinite().all()
    assert run.stats.steps == 15 and len(run.stats.effects) == 15
    assert run.stats.evaluations == run.stats.planned == sum(counter.blocks.values()) // 2
    phases = window.phases(tuple(range(8, 0, -1)))
    index = [0, *(i for i in range(1, 8) for _ in range(2))]
    assert [e is not None for e in run.stats.effects] == [phases[i] == "apply" for i in index]


@pytest.mark.parametrize("make", [DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler, DDPMScheduler,
                                  lambda: DDIMScheduler(prediction_type="v_prediction"),
                                  lambda: EulerDiscreteScheduler(timestep_spacing="trailing", use_karras_sigmas=True),
                                  lambda: DDIMScheduler(prediction_type="sample")],
                         ids=["ddim", "euler", "unipc", "ddpm", "v", "karras", "sample"])
def test_other_schedulers(make):
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    pipe.scheduler = make()
    plain = case.run(pipe)
    with emag.guide(pipe, EMAG(), emag.APG(2.0, norm_threshold=1.0, momentum=-0.3)) as run:
        guided = case.run(pipe)
    assert not torch.equal(plain, guided) and guided.isfinite().all()
    assert run.stats.steps == len(pipe.scheduler.timesteps)


def test_an_unknown_prediction_space_is_refused():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    pipe.scheduler.register_to_config(prediction_type="nonsense")
    with pytest.raises(emag.Unsupported, match="nonsense"), emag.guide(pipe, EMAG()):
        case.run(pipe)


def test_dynamic_shifting():
    pipe = sd3()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with emag.guide(pipe, EMAG()) as run:
        pipe(**sd3_call(mu=0.7))
    assert run.stats.steps == 8


@pytest.mark.parametrize("size", [(8, 16), (16, 8)])
@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_any_shape(name, size):
    case = CASES[name]
    pipe = case.pipe(pos_embed_max_size=16) if name == "sd3" else case.pipe()
    with emag.guide(pipe, EMAG(variant="map")) as run:
        case.run(pipe, height=size[0], width=size[1])
    assert run.stats.effect > 0


def test_progress_is_reported_once_per_step():
    for name in CASES:
        pipe, seen = CASES[name].pipe(), []
        with emag.guide(pipe, EMAG(), *((emag.CFG(2.0),) if CASES[name].uncond else ())) as run:
            run.on_step = lambda done, total, seen=seen: seen.append((done, total))
            CASES[name].run(pipe)
        assert seen == [(i, 8) for i in range(1, 9)]


@EVERY
def test_saved_and_loaded_pipelines(case, tmp_path):
    pipe = case.pipe()
    with emag.guide(pipe, EMAG()):
        expected = case.run(pipe)
        pipe.save_pretrained(tmp_path)
    missing = {name: None for name, part in pipe.components.items() if part is None}
    loaded = DiffusionPipeline.from_pretrained(tmp_path, **missing)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is type(pipe)
    with emag.guide(loaded, EMAG()) as run:
        assert torch.equal(case.run(loaded), expected)
    assert run.stats.effect > 0


def test_true_cfg_by_embeds_or_not_at_all():
    pipe = flux(guidance=False)
    with emag.guide(pipe, EMAG()) as run:
        pipe(**true_cfg_call())
        assert run.stats.clean == 2 * 8 * 5
        pipe(**true_cfg_call(true_cfg_scale=1.0))
        assert run.stats.clean == 8 * 5
        pipe(**flux_call(true_cfg_scale=4.0))
        assert run.stats.clean == 8 * 5


def test_masks_follow_their_rows():
    """Every row has a mask of its own; a mask of the wrong rows would fit the heads and pass unnoticed."""
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    masks = {"prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).float(),
             "negative_prompt_attention_mask": torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).float()}
    with emag.guide(pipe, EMAG()):
        together = case.run(pipe, (1, 2, 3), **masks)
        alone = [case.run(pipe, (s,), **{k: v[i:i + 1] for k, v in masks.items()}) for i, s in enumerate((1, 2, 3))]
    assert (together - torch.cat(alone)).norm() < 1e-4 * together.norm()


@ALL
def test_the_declared_streams_are_those_of_the_blocks(case):
    """A block that hands its streams on returns what the real block returns: as many, of the same shapes, in order."""
    from emag.engine.network import read_network

    pipe, seen = case.pipe(), set()

    def check(block, args, kwargs, output):
        found, real = block.identity(args, kwargs), output if isinstance(output, tuple) else (output,)
        found = found if isinstance(found, tuple) else (found,)
        assert [x.shape for x in found] == [x.shape for x in real]
        assert len({x.shape for x in real}) == len(real)
        seen.add(block.index)

    for block in read_network(pipe.transformer).blocks:
        if not getattr(block.module, "context_pre_only", False):
            block.module.register_forward_hook(
                lambda m, args, kwargs, out, block=block: check(block, args, kwargs, out), with_kwargs=True)
    case.run(pipe, num_inference_steps=2)
    assert seen == set(range(case.depth(pipe) - (case.name == "sd3")))


def test_control_residuals_are_cut_to_the_rows_of_a_weak_pass():
    """Called by a host that adds residuals per block, rows declared by name follow the conditional rows."""
    from emag.engine.arguments import Arguments
    from emag.engine.network import read_network

    pipe = sd3()
    call = Arguments.bind(read_network(pipe.transformer), (noise(0, 4, 4, 8, 8),), {
        "encoder_hidden_states": noise(1, 4, 5, 12), "pooled_projections": noise(2, 4, 10),
        "timestep": torch.tensor([5.0] * 4),
        "block_controlnet_hidden_states": [noise(3, 4, 16, 16), noise(4, 4, 16, 16)]})
    half = call.rows(slice(2, 4))
    assert [r.shape[0] for r in half.values["block_controlnet_hidden_states"]] == [2, 2]
    assert torch.equal(half.values["encoder_hidden_states"], call.values["encoder_hidden_states"][2:])
    assert half.values["timestep"].shape == (2,)
    with pytest.raises(emag.Unsupported, match="3 rows"):
        call.replacing({"pooled_projections": noise(2, 3, 10)}).rows(slice(2, 4))
