"""Frame guidance: some frames of a video decoded from few latents, gradients through them, stages of a run."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.decoding import decode
from emag.hosts.films import FILMS, film_of, frames_of, usual_context
from emag.maths.energies import slope
from emag.methods.energy.making import Making
from emag.scores import Colour, OfFrames
from emag.testing.small_video import MORE
from emag.testing.small_wan import MORE as EXPERTS
from emag.testing.small_wan import experts, wan_vae

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)


def cog_vae():
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=16,
        sample_width=16, down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        temporal_compression_ratio=4, scaling_factor=0.7).eval()


class Toy(torch.nn.Module):
    """A causal autoencoder whose frames look one latent back: the first latent is a frame, the others four each."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, 0.2]))
        self.config = SimpleNamespace(latents_mean=[0.1, 0.0, -0.1], latents_std=[1.0, 2.0, 0.5])

    def decode(self, z, return_dict=False):
        last = torch.cat([z[:, :, :1], z[:, :, :-1]], 2)
        each = [torch.tanh((self.weight[0] + 0.1 * k) * z + self.weight[1] * last) for k in range(4)]
        rest = torch.stack([frame[:, :, 1:] for frame in each], 3).flatten(2, 3)
        return (torch.cat([each[0][:, :, :1], rest], 2),)


Toy.__name__ = "AutoencoderKLWan"  # served as that class is
VAES = {"wan": (wan_vae, 5), "cogvideox": (cog_vae, 5), "toy": (Toy, 5)}


def latents(vae, count, seed=1):
    channels = {"AutoencoderKLCogVideoX": 4}.get(type(vae).__name__)
    channels = channels or len(vae.config.latents_mean)
    return torch.randn(2, channels, count, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", VAES)
def test_frames_decoded_from_what_came_before_are_those_of_the_video(name):
    make, count = VAES[name]
    vae = make()
    x = latents(vae, count)
    with torch.no_grad():
        whole = film_of(vae, x)
        assert whole.shape[2] == 1 + 4 * (count - 1) and whole.std() > 0.01
        places = (0, 1, 4, 5, 8, 9, -1)
        for at, frame in zip(places, frames_of(vae, x, places), strict=True):
            close(frame, whole[:, :, at], atol=1e-5, rtol=1e-5)


def test_a_slice_is_the_whole_where_the_decoder_looks_no_further_back():
    vae, x = Toy(), latents(Toy(), 6)
    whole, seen = film_of(vae, x), []

    def watched(z, return_dict=False, original=vae.decode):
        seen.append(z.shape[2])
        return original(z, return_dict)

    vae.decode = watched
    for at in range(21):
        close(frames_of(vae, x, (at,), before=1)[0], whole[:, :, at])
    assert max(seen) == 2
    # a slice that is too short is another picture
    far = frames_of(vae, x, (9,), before=usual_context(wan_vae()))[0]
    close(far, whole[:, :, 9])


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_a_published_slice_decodes_few_latents_and_is_an_approximation(name):
    """Real decoders look further back than the slice."""
    vae = VAES[name][0]()
    x, few = latents(vae, 7), usual_context(vae)
    with torch.no_grad():
        whole = film_of(vae, x)
        for at in (18, 24):
            far = [(frames_of(vae, x, (at,), before=n)[0] - whole[:, :, at]).abs().mean() for n in (few, None)]
            assert far[0] > 1e-4 > far[1]
            first, behind, inside = FILMS[type(vae).__name__].latents(at, 7, few)
            assert behind - first == few + 1 and 0 <= inside < 1 + 4 * (behind - first - 1)


def test_gradients_reach_the_latents_that_a_frame_depends_on_alone():
    vae, x = wan_vae(), latents(wan_vae(), 5)
    pipe = SimpleNamespace(vae=vae)
    score = OfFrames(RED, (6,))
    _, gradient = slope(x, lambda z: score.of(decode(pipe, z, None, score.part)))
    assert gradient[:, :, 3:].abs().max() == 0 < gradient[:, :, 2].abs().min()
    _, whole = slope(x, lambda z: score(decode(pipe, z)))
    close(gradient, whole, atol=1e-6, rtol=1e-3)


def film(**more):
    case = MORE["wan"]
    pipe = case.pipe()
    pipe.vae = wan_vae()
    return case, pipe


def energy(**changes):
    return emag.Energy(OfFrames(RED, (0, -1)), 30.0, **changes)


def steered(*rules, seeds=(8, 9)):
    case, pipe = film()
    with emag.guide(pipe, *rules) as run:
        return case.run(pipe, seeds, num_inference_steps=4), run


@pytest.mark.parametrize("preset", ["frame", "frame-travel", "mpgd"])
def test_videos_are_steered_by_frames(preset):
    rule = emag.Energy.preset(preset, OfFrames(RED, (0, -1)), strength=0.5)
    plain, _ = steered(emag.CFG(3.0))
    out, run = steered(emag.CFG(3.0), rule)
    assert out.isfinite().all() and not torch.equal(out, plain)
    assert run.stats.evaluations == run.stats.planned
    alone, _ = steered(emag.CFG(3.0), rule, seeds=(9,))
    close(alone, out[1:], rtol=0, atol=2e-3 * float(out.abs().max()))


@pytest.mark.parametrize("preset", ["frame", "frame-travel"])
def test_the_size_of_the_score_does_not_matter(preset):
    rules = [emag.Energy.preset(preset, lambda v, k=k: k * OfFrames(RED, (0,))(v), strength=0.5) for k in (1.0, 1000.0)]
    found = [steered(emag.CFG(3.0), rule)[0] for rule in rules]
    close(found[0], found[1], rtol=1e-3, atol=1e-3 * float(found[0].abs().max()))


def test_stages_are_rules_with_intervals_one_after_the_other(monkeypatch):
    """Early on x_t, in the middle by travel, late not at all: each acts at its own steps, and the last are plain."""
    acted = []

    def told(self, *args, original=Making.turn):
        acted.append((self.rule.where, self.slopes.step.index))
        return original(self, *args)

    monkeypatch.setattr(Making, "turn", told)
    score = OfFrames(RED, (0,))
    stages = tuple(emag.Energy.preset(name, score, interval=at) for name, at in (("frame", (0.0, 0.2)),
                                                                               ("frame-travel", (0.3, 0.7))))
    steered(emag.CFG(3.0), *stages)
    assert acted == [("x_t", 0), ("next", 1), ("next", 1), ("next", 2), ("next", 2)]


def test_it_goes_on_where_another_network_takes_over():
    """Wan 2.2, whose two networks have one run: gradients go through the one that serves; none is asked for a later step."""
    case, pipe, score = EXPERTS["wan-experts"], experts(), OfFrames(RED, (0,))
    plain, pipe.vae = case.run(pipe, num_inference_steps=4), wan_vae()
    rule = emag.Energy.preset("frame-travel", score, strength=0.5, checkpoint=True)
    with emag.guide(pipe, emag.CFG(3.0), rule) as run:
        out = case.run(pipe, num_inference_steps=4)
    assert run.stats.evaluations == run.stats.planned and run.stats.again == run.stats.backward > 0
    assert out.isfinite().all() and not torch.equal(out, plain)
    with pytest.raises(Unsupported, match="takes over"), emag.guide(pipe, emag.CFG(3.0), emag.SCG(score, 2)):
        case.run(pipe, num_inference_steps=4)


def test_refusals():
    with pytest.raises(BadValue, match="no frame 99"):
        frames_of(wan_vae(), latents(wan_vae(), 3), (99,))
    with pytest.raises(Unsupported, match="of which 8 leave 1"):
        frames_of(cog_vae(), latents(cog_vae(), 4), (0,))
    with pytest.raises(BadValue, match="at least 1 latent before"):
        OfFrames(RED, (0,), 0)
    _, pipe = film()
    with pytest.raises(BadValue, match="checkpoint=true has no effect"):
        emag.guide(pipe, emag.CFG(3.0), energy(checkpoint=True))
    pipe.vae = None
    with pytest.raises(Unsupported, match="it has no VAE"):
        emag.guide(pipe, emag.CFG(3.0), energy())
    with pytest.raises(Unsupported, match="dimensions beside the channels"):
        decode(SimpleNamespace(vae=wan_vae()), torch.zeros(1, 16, 4, 4))
