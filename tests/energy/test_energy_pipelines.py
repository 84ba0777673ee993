"""Energy guidance in pipelines: real gradients whatever surrounds them, images as the pipeline makes them, every way in."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler

import emag
from emag.engine.access import NetworkEvaluations
from emag.errors import BadValue, NoEffect, Unsupported
from emag.hosts import own_loop
from emag.hosts.decoding import decode
from emag.hosts.latents import unscaled
from emag.hosts.own_loop import Loop
from emag.maths.layout import unpack
from emag.maths.predictions import to_x0
from emag.scores import Colour
from emag.testing.cases import every
from tiny import CASES, sd3, vae

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)


def made(case, *rules, seeds=(8, 9), **call):
    pipe = CASES[case].pipe()
    with emag.guide(pipe, *rules) as run:
        return CASES[case].run(pipe, seeds, **call), run


def rules(case, **settings):
    cfg = [emag.CFG(3.0)] if CASES[case].uncond else []
    return *cfg, emag.Energy(RED, 5.0, **settings)


# images


@pytest.mark.parametrize("case", ["sd3", "pixart", "flux", "qwen"])
def test_a_score_sees_what_the_pipeline_gives(case):
    pipe = every()[case].pipe()
    latents, images = (every()[case].run(pipe, output_type=kind) for kind in ("latent", "pt"))
    side = int(latents.shape[1] ** 0.5)
    grid = SimpleNamespace(grid=(side, side, 2) if latents.ndim == 3 else None)
    close(decode(pipe, latents, grid), images.float())


@pytest.mark.parametrize("name", ["tiny", "shapes"])
def test_and_so_on_the_embedded_models(name):
    pipe = emag.load(name)
    pipe.set_progress_bar_config(disable=True)
    prompt = {"tiny": "a photo of a frog", "shapes": "a red circle"}[name]
    latents, images = (pipe(prompt, num_inference_steps=2, output_type=kind,
                            generator=torch.Generator().manual_seed(8)).images for kind in ("latent", "pt"))
    close(decode(pipe, latents), images.float())


def test_latents_by_channel_are_unscaled_as_sdxls():
    config = {"latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [2.0, 2.0, 1.0, 1.0], "scaling_factor": 0.5}
    x = torch.ones(1, 4, 1, 1)
    found = unscaled(SimpleNamespace(config=SimpleNamespace(**config)), x)
    close(found.flatten(), torch.tensor([5.0, 6.0, 5.0, 6.0]))


# gradients


@pytest.mark.parametrize("case", ["sd3", "true-cfg", "dit", "flux"])
def test_the_gradient_through_the_network_is_what_differences_tell(monkeypatch, case):
    """Of the guided estimate: score(decode(x0(x + h d))) rises by h <G, d>, with predictions made by plain passes."""
    from emag.methods.energy.slopes import Slopes

    told = []

    def through(self, x, of, original=Slopes.through):
        found = original(self, x, of)
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            ahead, behind = (self.value(self.access.estimate(x + h * direction, of)) for h in (1e-2, -1e-2))
        told.append(((ahead - behind) / 2e-2, (found[0] * direction).flatten(1).sum(1)))
        return found

    monkeypatch.setattr(Slopes, "through", through)
    made(case, *rules(case, through_network=True, where="next", interval=(0.3, 0.6)), num_inference_steps=4)
    assert told
    for differences, slopes in told:
        assert slopes.abs().min() > 1e-6
        close(slopes, differences, rtol=0.05, atol=2e-4 * float(slopes.abs().max()) + 2e-4)


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("settings", [{}, {"through_network": True, "where": "x_t", "mean": 1.0, "recur": 2}])
@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_no_surrounding_takes_the_gradients_away(case, settings, surrounding):
    pipe = CASES[case].pipe()
    with emag.guide(pipe, *rules(case, **settings)):
        expected = CASES[case].run(pipe)
        with surrounding():
            found = CASES[case].run(pipe)
    assert torch.equal(found, expected)


def test_weights_of_inference_mode_are_refused_in_words():
    pipe = sd3()
    for weight in pipe.transformer.parameters():
        with torch.inference_mode():
            weight.data = weight.data.clone()
    steered = emag.guide(pipe, *rules("sd3", through_network=True))
    with pytest.raises(Unsupported, match=r"made under torch\.inference_mode"), steered:
        CASES["sd3"].run(pipe)


def test_no_weight_gets_a_gradient():
    pipe = sd3()
    with emag.guide(pipe, *rules("sd3", through_network=True)):
        out = CASES["sd3"].run(pipe)
    assert not out.requires_grad
    assert all(weight.grad is None for part in (pipe.transformer, pipe.vae) for weight in part.parameters())


@pytest.mark.parametrize("case", ["sd3", "dit", "true-cfg", "flux"])
def test_the_score_rises(case):
    """Of the last estimate, which is the image."""
    scores = []

    def watched(images):
        scores.append(RED(images))
        return scores[-1]

    *cfg, _ = rules(case)
    made(case, *cfg, emag.Energy(watched, 1e-6))
    plain = scores[-1]
    made(case, *cfg, emag.Energy(watched, 3e3))
    assert (scores[-1] > plain).all()


@pytest.mark.parametrize("case", ["sd3", "true-cfg", "dit", "flux"])
def test_each_image_is_alone_it_costs_what_was_planned_and_strength_0_is_the_pipelines_own(case):
    settings = {"where": "next", "through_network": True, "mean": 1.0, "recur": 2, "smooth": 0.1, "augment": 2,
                "normalise": "norm", "checkpoint": True}
    found, run = made(case, *rules(case, **settings), num_inference_steps=2)
    assert run.stats.evaluations == run.stats.planned > run.stats.clean and run.stats.backward > 0
    alone, _ = made(case, *rules(case, **settings), seeds=(9,), num_inference_steps=2)
    close(alone, found[1:], rtol=0, atol=2e-3 * float(found.abs().max()))
    *cfg, energy = rules(case, **settings)
    neutral = replace(energy, strength=0.0, mean=0.0)
    off, plain = (made(case, *cfg, *more, num_inference_steps=2)[0] for more in ([neutral], []))
    assert torch.equal(off, plain) and not torch.equal(found, plain)


# what goes with what


def test_estimates_may_be_those_of_emag():
    pushed = emag.EMAG(1.5, layers=(1, 2)), emag.CFG(3.0)
    out, run = made("sd3", *pushed, emag.Energy(RED, 3e3))
    assert not torch.equal(out, made("sd3", *pushed)[0]) and run.stats.evaluations == run.stats.planned
    out, run = made("sd3", *pushed, emag.Energy(RED, 3.0, "next", True, of="cond"))
    assert run.stats.evaluations == run.stats.planned
    for rule in (emag.Energy(RED, 3.0, "next", True, steps=2), emag.SCG(RED, n=2)):
        with pytest.raises(Unsupported, match="at later steps, of which the weak branch of emag has seen nothing yet"):
            made("sd3", *pushed, rule)


def test_rules_in_the_attention_work_in_its_passes(monkeypatch):
    """At the step's own x, its estimate is that of the clean pass."""
    seen = []

    def branches(self, x, names, at, checkpoint=False, original=NetworkEvaluations.branches):
        seen.append((x.detach(), original(self, x, names, at)))
        return seen[-1][1]

    monkeypatch.setattr(NetworkEvaluations, "branches", branches)
    for before in ((), (emag.PLADIS(2.0, layers=(1,)),), (emag.CADS(0.5, 0.1, 0.9, 0.5),)):
        told = []

        def spy(rule, pred, given, step, state, told=told, apply=emag.Energy.apply):
            told.append((given, step))
            return apply(rule, pred, given, step, state)

        monkeypatch.setattr(emag.Energy, "apply", spy)
        seen.clear()
        made("sd3", *before, emag.CFG(3.0), emag.Energy(RED, 3.0, "next", True), num_inference_steps=3)
        for (x, found), (given, step) in zip(seen, told, strict=True):
            for name in ("cond", "uncond"):
                x0 = to_x0(found[name], x, step.alpha, step.sigma, "flow").detach()
                close(x0, given[name], atol=2e-4, rtol=2e-3)
        monkeypatch.undo()
        monkeypatch.setattr(NetworkEvaluations, "branches", branches)


def test_the_hosts_own_guidance_is_not_what_is_scored():
    with pytest.raises(BadValue, match="name a combining rule before it"):
        made("sd3", emag.Energy(RED))
    made("flux", emag.Energy(RED))


def test_a_videos_autoencoder_shows_single_images():
    """Qwen-Image decodes by the one of a video, whose first frame it takes."""
    case = every()["qwen"]
    plain, pipe = case.run(case.pipe(), num_inference_steps=2), case.pipe()
    with emag.guide(pipe, emag.CFG(4.0), emag.Energy(RED, 5.0, "next", True, mean=1.0)) as run:
        out = case.run(pipe, num_inference_steps=2)
    assert run.stats.evaluations == run.stats.planned and run.stats.backward > 0
    assert out.isfinite().all() and not torch.equal(out, plain)


def test_schedulers_that_make_other_steps_are_refused_where_that_matters():
    pipe = CASES["pixart"].pipe()
    with pytest.raises(Unsupported, match="first-order"), emag.guide(pipe, *rules("pixart", where="next")):
        CASES["pixart"].run(pipe)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with emag.guide(pipe, *rules("pixart", where="next")):
        CASES["pixart"].run(pipe)


def test_without_a_decoder_it_is_refused_at_once():
    pipe = sd3()
    pipe.vae = None
    with pytest.raises(Unsupported, match="it has no VAE"):
        emag.guide(pipe, *rules("sd3"))


def test_scores_by_name_and_given_are_the_same_and_an_unknown_one_is_refused():
    pipe = sd3()
    outs = []
    for score, given in (("colour:0.9:0.1:0.1", {}), ("mine", {"mine": RED}), (RED, {})):
        with emag.guide(pipe, emag.CFG(3.0), emag.Energy(score, 100.0), scores=given):
            outs.append(CASES["sd3"].run(pipe))
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    with pytest.raises(BadValue, match="there is no score 'mine'"):
        emag.guide(pipe, emag.CFG(3.0), emag.Energy("mine"))


def test_a_record_holds_scores_by_name_and_says_where_it_cannot():
    for score, given, lost in (("colour:1:0:0", {}, False), ("mine", {"mine": RED}, True), (RED, {}, True)):
        pipe = sd3()
        with emag.guide(pipe, emag.CFG(3.0), emag.Energy(score, 100.0), scores=given) as run:
            CASES["sd3"].run(pipe)
        assert bool({"mine", "rules"} & set(run.record["unrecorded"])) is lost


def test_a_flat_score_is_no_effect():
    with pytest.raises(NoEffect, match="was 0 at all steps"):
        made("sd3", emag.CFG(3.0), emag.Energy(lambda images: images.clamp(7, 8).flatten(1).sum(1)))


@pytest.mark.slow
def test_our_own_loop_makes_what_the_pipeline_makes():
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    guidance = emag.CFG(2.0), emag.Energy("classifier:frog", 0.3, "next", True)
    images, model = own_loop.run(pipe, Loop(guidance, steps=4), ["a photo of a ship"], [None], [8])
    with emag.guide(pipe, *guidance) as run:
        theirs = pipe("a photo of a ship", num_inference_steps=4, generator=torch.Generator().manual_seed(8)).images
    assert max(abs(a - b) for a, b in zip(images[0].tobytes(), theirs[0].tobytes(), strict=True)) <= 1
    assert model.evaluations == 4 * 4 and run.stats.evaluations == run.stats.planned


def test_packed_latents_unpack_as_flux_does():
    pipe = CASES["flux"].pipe()
    x = torch.randn(1, 16, 16)
    ours = unpack(x, SimpleNamespace(grid=(4, 4, 2)))
    close(ours, pipe._unpack_latents(x, 8, 8, pipe.vae_scale_factor))


def test_half_precision_autoencoders_are_given_their_dtype():
    pipe = SimpleNamespace(vae=vae().to(torch.bfloat16))
    assert isinstance(pipe.vae, AutoencoderKL)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(decode(pipe, x).sum(), x)
    assert slope.dtype == torch.float32 and slope.abs().sum() > 0
