"""Memory of energies: checkpointed passes, decoders in slices and small ones give the same gradients and keep less."""

from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.profiler import ProfilerActivity, profile

import emag
from emag.core import Sparing
from emag.engine.checkpointing import switches
from emag.errors import BadValue, Unsupported
from emag.hosts.decoding import decode
from emag.lab.forecast import memory, skeleton
from emag.lab.live import LiveBytes
from emag.scores import Colour
from emag.testing.cases import every
from tiny import CASES, sd3, vae

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)
THROUGH = {"where": "next", "through_network": True}


def made(case, *rules, **call):
    pipe = every()[case].pipe()
    with emag.guide(pipe, *rules) as run:
        return every()[case].run(pipe, (8, 9), **{"num_inference_steps": 2, **call}), run.stats


def rules(case, *before, **settings):
    cfg = [emag.CFG(3.0)] if every()[case].uncond else []
    return *before, *cfg, emag.Energy(RED, 5.0, **{**THROUGH, **settings})


# through the network


@pytest.mark.parametrize("case", ["sd3", "dit", "flux", "true-cfg", "sd"])
def test_checkpointed_gradients_are_the_same_bit_for_bit_and_what_is_evaluated_again_is_counted(case):
    plain, kept = (made(case, *rules(case, checkpoint=on)) for on in (False, True))
    assert torch.equal(plain[0], kept[0])
    assert plain[1].again == 0 and kept[1].again == kept[1].backward > 0
    assert (kept[1].evaluations, kept[1].planned) == (plain[1].evaluations, plain[1].planned)


@pytest.mark.parametrize("rule", [emag.PLADIS(2.0, layers=(1,)), emag.CADS(0.5, 0.1, 0.9, 0.5)], ids=str)
def test_what_works_inside_the_network_works_in_the_second_evaluation_too(rule):
    plain, kept = (made("sd3", *rules("sd3", rule, checkpoint=on))[0] for on in (False, True))
    assert torch.equal(plain, kept) and not torch.equal(plain, made("sd3", *rules("sd3"))[0])


def test_the_users_own_switch_does_the_same():
    expected, _ = made("sd3", *rules("sd3", emag.PLADIS(2.0, layers=(1,))))
    pipe = sd3()
    pipe.transformer.enable_gradient_checkpointing()
    with emag.guide(pipe, *rules("sd3", emag.PLADIS(2.0, layers=(1,)))) as run:
        assert torch.equal(CASES["sd3"].run(pipe, (8, 9), num_inference_steps=2), expected)
    assert run.stats.again == run.stats.backward
    assert pipe.transformer.is_gradient_checkpointing


def test_nothing_stays_of_it():
    pipe = sd3()
    before = {name: dict(part.__dict__) for name, part in pipe.transformer.named_modules() if part in
              switches(pipe.transformer)}
    wanted = [weight.requires_grad for weight in pipe.transformer.parameters()]
    with emag.guide(pipe, *rules("sd3", checkpoint=True)):
        CASES["sd3"].run(pipe)
    assert {name: part.__dict__ for name, part in pipe.transformer.named_modules() if name in before} == before
    assert [weight.requires_grad for weight in pipe.transformer.parameters()] == wanted and all(wanted)


def test_a_plan_tells_what_is_evaluated_again():
    from emag.engine.plan import plan
    from emag.engine.trajectory import Trajectory

    path = Trajectory.even(3)
    for settings, again in (({}, 0), ({"checkpoint": True}, 4 * 3 * 2), ({"checkpoint": True, "of": "cond"}, 4 * 3)):
        assert plan(rules("sd3", **settings), 4, path, uncond=True).again == again


def test_less_is_kept():
    pipe = sd3(layers=8)
    found = []
    for on in (False, True):
        with LiveBytes() as live, emag.guide(pipe, *rules("sd3", checkpoint=on)):
            CASES["sd3"].run(pipe, num_inference_steps=1)
        found.append(live.peak)
    assert found[1] < 0.5 * found[0]


def test_around_a_function_calls_are_evaluated_again_as_a_whole():
    from test_energy_functions import NETS, PATH, X, linear, quadratic

    models = [emag.guided(linear, emag.CFG(2.0), emag.Energy(quadratic, 0.1, **THROUGH, checkpoint=on), path=PATH,
                          prediction="x0", conditions=NETS) for on in (False, True)]
    plain, kept = (emag.sample(model, X) for model in models)
    assert torch.equal(plain, kept)
    assert models[0].evaluations == models[1].evaluations == 2 * models[1].again and models[0].again == 0


def test_and_so_where_its_network_is_known():
    """The second evaluation finds the taps of the first, and is counted apart."""
    network, made = sd3().transformer, torch.Generator().manual_seed(5)
    words, pooled, x = (torch.randn(2, *shape, generator=made) for shape in ((5, 12), (10,), (4, 8, 8)))

    def denoiser(x, t, condition):
        return network(x, timestep=torch.full((2,), 1000 * t), encoder_hidden_states=words, pooled_projections=pooled,
                       return_dict=False)[0]

    found = []
    for on in (False, True):
        rules_ = emag.PLADIS(2.0, layers=(1,)), emag.Energy(lambda x0: -x0.square().flatten(1).sum(1), 0.1, **THROUGH,
                                                            checkpoint=on)
        model = emag.guided(denoiser, *rules_, path=(0.9, 0.5, 0.0), backbone=network)
        found.append((emag.sample(model, x), model.evaluations, model.block_evaluations, model.again,
                      model.network.passes.again))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == (4, 16, 0, 0) and found[1][1:] == (4, 16, 2, 8)


# decoders


def slope(vae, latents, sparing=Sparing()):  # noqa: B008
    pipe = type("Pipe", (), {"vae": vae})()
    leaf = latents.clone().requires_grad_()
    with LiveBytes() as live:
        images = decode(pipe, leaf, sparing=sparing)
        weights = torch.linspace(0, 1, images.numel()).view(images.shape)
        (found,) = torch.autograd.grad((images * weights).sum(), leaf)
    return found, live.peak


LATENTS = 0.3 * torch.randn(3, 4, 12, 12, generator=torch.Generator().manual_seed(4))


def wide_vae(**config):
    torch.manual_seed(1)
    kind = dict(block_out_channels=(8, 16), norm_num_groups=2, latent_channels=4, sample_size=16,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    return AutoencoderKL(**{**kind, **config}).eval()


def small_vae(channels=4):
    torch.manual_seed(2)
    return AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                           num_decoder_blocks=(1, 1), latent_channels=channels, upsampling_scaling_factor=1).eval()


def test_rows_of_a_decoder_one_after_the_other_have_the_gradients_of_all_at_once_and_keep_less():
    network = wide_vae()
    whole, most = slope(network, LATENTS)
    network.enable_slicing()
    sliced, less = slope(network, LATENTS)
    close(sliced, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert less < 0.5 * most


def test_tiles_have_the_gradients_of_diffusers_own_tiles_and_keep_less():
    network = wide_vae()
    _, most = slope(network, LATENTS[:1])
    network.enable_tiling()
    network.tile_latent_min_size, network.tile_sample_min_size = 8, 16
    leaf = LATENTS[:1].clone().requires_grad_()
    images = (network.decode(leaf / network.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    (expected,) = torch.autograd.grad((images * torch.linspace(0, 1, images.numel()).view(images.shape)).sum(), leaf)
    found, less = slope(network, LATENTS[:1])
    assert torch.equal(found, expected) and less < 0.8 * most


def test_a_checkpointed_decoder_has_the_same_gradients_and_keeps_less():
    network = wide_vae()
    whole, most = slope(network, LATENTS)
    found, less = slope(network, LATENTS, Sparing(checkpoint=True))
    assert torch.equal(found, whole) and less < 0.9 * most
    assert not network.is_gradient_checkpointing and all(weight.requires_grad for weight in network.parameters())


def test_a_small_decoder_stands_in_for_the_pipelines_own_and_is_read_once(tmp_path):
    small = small_vae()
    small.save_pretrained(tmp_path / "small")
    pipe = sd3()
    given = []

    def watched(images):
        given.append(images.detach())
        return RED(images)

    outs = []
    for decoder in (small, str(tmp_path / "small")):
        with emag.guide(pipe, emag.CFG(3.0), emag.Energy(watched, 50.0, decoder=decoder)):
            outs.append(CASES["sd3"].run(pipe, num_inference_steps=1))
    assert torch.equal(*outs)
    with emag.guide(pipe, emag.CFG(3.0)):
        x0 = CASES["sd3"].run(pipe, num_inference_steps=1, output_type="latent")
    with torch.no_grad():
        close(given[0], (small.decode(x0).sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: small_vae(channels=8), BadValue, "latents of 8 channels"),
    (lambda: torch.nn.Linear(1, 1), BadValue, "Linear is no decoder"),
    (lambda: "nowhere/at/all", BadValue, "cannot load the decoder nowhere/at/all")])
def test_what_cannot_decode_is_refused_at_once(make, error, match):
    with pytest.raises(error, match=match):
        emag.guide(sd3(), emag.CFG(3.0), emag.Energy(RED, decoder=make()))


def test_what_would_have_no_effect_is_refused():
    pipe = emag.load("tiny")
    with pytest.raises(BadValue, match="checkpoint=true has no effect"):
        emag.guide(pipe, emag.CFG(3.0), emag.Energy(RED, checkpoint=True))
    with pytest.raises(BadValue, match="PixelVAE of this TinyPipeline has no other decoder"):
        emag.guide(pipe, emag.CFG(3.0), emag.Energy(RED, decoder=small_vae()))
    with pytest.raises(BadValue, match="decoder is another one than a pipeline's own"):
        emag.guided(lambda x, t, c: x, emag.Energy(RED, decoder=small_vae()), path=(1.0, 0.0))
    pipe = sd3()
    del pipe.transformer.gradient_checkpointing
    with pytest.raises(Unsupported, match="has no gradient checkpointing"):
        emag.guide(pipe, *rules("sd3", checkpoint=True))
    assert vae().config.latent_channels == 4


# before a run


def allocated(work):
    """The most bytes that the CPU's allocator handed out at once while `work` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [(event.start_ns(), event.nbytes()) for event in found.profiler.kineto_results.events() if
              event.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(events)))


@pytest.mark.slow
def test_what_a_plan_says_of_memory_is_what_the_allocator_hands_out():
    """Within a quarter, on a network of 6 blocks whose autoencoder has a decoder."""
    pipe, energy = emag.load("shapes"), emag.Energy("edges:0.1", **THROUGH)
    pipe.set_progress_bar_config(disable=True)

    def draw(steps):
        pipe(["a red circle"] * 2, num_inference_steps=steps, output_type="latent",
             generator=torch.Generator().manual_seed(0))

    draw(1)  # what is made once and kept is not a run's
    for rule, steps in ((energy, 1), (replace(energy, checkpoint=True), 1),
                        (replace(energy, steps=9, smooth=0.1, draws=2, of="cond"), 2)):
        with LiveBytes() as live, emag.guide(pipe, emag.CFG(2.0), rule):
            told = allocated(partial(draw, steps))
        foreseen = memory(skeleton("shapes"), "shapes", (emag.CFG(2.0), rule), images=2, steps=2)["bytes"]
        assert 0.8 < foreseen / told < 1.25 and 0.8 < live.peak / told < 1.25
