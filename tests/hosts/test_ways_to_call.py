"""A guided pipeline takes every way to call it."""

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
from cases import ALL, EMAG, EVERY
from spy import Counter
from tiny import CASES, dit, flux, flux_call, noise, sd3, sd3_call, true_cfg_call

pytestmark = pytest.mark.sampled(2)

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
    from emag.engine.reading import read_network

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
    from emag.engine.reading import read_network

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
