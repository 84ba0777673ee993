"""Stages of growing size: where they start, what goes on from one to the next, maps fused in networks with text."""

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import Rows, Step
from emag.errors import BadValue, Unsupported
from emag.hosts.cascade import Stage, cascade, enlarged, fused_maps, stage_paths, through_pixels
from emag.maths.attention import Attention
from emag.maths.predictions import to_x0
from emag.maths.streams import Streams
from emag.methods.attention.map_fusion import MapFusion, share
from emag.samplers import Path, sample
from own_function import denoiser_of
from tiny import pixart, pixart_call, sd3, sd3_call

close = torch.testing.assert_close
FLOW = Path.flow(tuple(1 - i / 1000 for i in range(1001)))
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
BARS = (1 - BETAS).cumprod(0)
VP = Path.variance_preserving((*(1 - BARS).sqrt().flip(0).tolist(), 0.0))
STAGES = (Stage((6, 4), 5, 0.2), Stage((12, 8), 4))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = normal(3, 4, 6, 4)


def network(x, t, told):
    return torch.tanh(x + told * t) + F.avg_pool2d(x, 3, 1, 1)


def models(*rules, paths=None, net=network, stages=STAGES):
    told = {"cond": 1.0, "uncond": -0.5}
    return [emag.guided(net, *rules, path=path, conditions=told) for path in paths or stage_paths(FLOW, stages, 1.0)]


@pytest.mark.parametrize(("end", "old", "new"), [(0.2, 1024, 2048), (0.1, 512, 1024), (0.4, 1024, 1536), (0.3, 64, 64)])
def test_a_stage_starts_where_the_authors_start_it(end, old, new):
    """Both published rules are one: noise over signal times (new / old)^(gamma / 2), which is gamma 1 on a flow path."""
    k = (new / old) ** 0.5
    stages = Stage((old, old), 9, end), Stage((new, new), 7)
    paths = stage_paths(FLOW, stages, 1.0)
    assert paths[0].sigmas[-2] == pytest.approx(end) and paths[0].at(-1) == (1.0, 0.0) and len(paths[0]) == 9
    assert paths[1].sigmas[0] == pytest.approx(k * end / (1 + (k - 1) * end), abs=6e-4)
    for gamma in (1.5, 3.0):
        share_, last = (old / new) ** gamma, BARS[round(end * 1000)].item()
        wanted = share_ * last / (1 + (share_ - 1) * last)
        first = stage_paths(VP, (*stages[:1], Stage((new, new), 7)), gamma)[1].alphas[0] ** 2
        assert first == pytest.approx(wanted, abs=3e-3)


def test_the_levels_of_a_stage():
    one, two = stage_paths(FLOW, STAGES, 1.0)
    assert one.sigmas == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    assert two.sigmas[0] > 0.2 and two.sigmas[-2:] == pytest.approx([0.001, 0.0]) and len(two) == 4


def test_one_stage_is_a_run():
    model, = models(emag.CFG(3.0), paths=stage_paths(FLOW, STAGES[:1], 1.0))
    close(cascade([model], X, [(6, 4)]), sample(model, X), atol=0, rtol=0)


def test_two_stages_by_hand():
    """The first one's estimate of the clean image, enlarged and noised anew, and guidance in two bands."""
    first, second = models(emag.CFG(3.0)), models(emag.FACFG(6.0, 2.0, size=(6, 4)))
    made = cascade([first[0], second[1]], X, [(6, 4), (12, 8)])
    one, two = stage_paths(FLOW, STAGES, 1.0)
    x = X
    for i in range(len(one)):
        model = models(emag.CFG(3.0))[0]
        pred, before = model(x, i), x
        x = x + (one.sigmas[i + 1] - one.sigmas[i]) * pred
    clean = to_x0(pred, before, *one.at(4), "flow")
    close(x, clean)
    large = clean.repeat_interleave(2, 2).repeat_interleave(2, 3)
    streams = Streams.of(X)
    for _ in range(5):
        streams.next_step()
    alpha, sigma = two.at(0)
    x = alpha * large + sigma * streams.normal("cascade/1", large).double()
    for i in range(len(two)):
        c, u = (network(x, two.sigmas[i], told) for told in (1.0, -0.5))
        low = F.interpolate(F.interpolate(c - u, size=(6, 4), mode="bilinear"), size=(12, 8), mode="bilinear")
        x = x + (two.sigmas[i + 1] - two.sigmas[i]) * (c + low + 5 * (c - u - low))
    close(made, x)


def test_images_do_not_depend_on_their_batch():
    together = cascade(models(emag.CFG(3.0), emag.Momentum()), X, [(6, 4), (12, 8)])
    for row in range(3):
        close(cascade(models(emag.CFG(3.0), emag.Momentum()), X[row:row + 1], [(6, 4), (12, 8)]), together[row:row + 1])


def test_through_pixels_and_back():
    """An autoencoder that turns 2 x 2 pixels into channels, scaled and shifted: clipped, and enlarged as pixels are."""
    class Vae(torch.nn.Module):
        dtype = torch.float64
        config = type("config", (), {"scaling_factor": 0.5, "shift_factor": 0.1})

        def decode(self, x, return_dict):
            return (F.pixel_shuffle(x, 2),)

        def encode(self, x):
            mean = F.pixel_unshuffle(x, 2)
            return type("out", (), {"latent_dist": type("dist", (), {"mode": lambda self: mean})()})

    x0 = normal(2, 4, 3, 3)
    grown = through_pixels(Vae())(x0, (6, 6))
    pixels = F.pixel_shuffle(x0 / 0.5 + 0.1, 2).clamp(-1, 1)
    close(grown, (F.pixel_unshuffle(pixels.repeat_interleave(2, 2).repeat_interleave(2, 3), 2) - 0.1) * 0.5)
    quiet = 0.1 * x0
    close(through_pixels(Vae())(quiet, (3, 3)), quiet)
    assert torch.equal(enlarged(x0, (3, 3)), x0)


# Maps of one stage in the attention of the next


def call_of(cross, heads=3, text=5, tokens=16, batch=2):
    keys = text if cross else tokens + text
    q = normal(batch, heads, tokens if cross else tokens + text, 8, seed=1)
    return Attention(q, normal(batch, heads, keys, 8, seed=2), normal(batch, heads, keys, 8, seed=3), slice(0, tokens),
                     cross=cross)


def strengthened(call, weight=0.6, maps=None, taken=False):
    """The output under one strong pass at the last step of two, and the state."""
    state = MapFusion(weight, (0,), call.cross).perturbation.start((1.0, 0.5), Streams([]))
    state.place((4, 4))
    masks = {} if maps is None else {"map-fusion:cond": maps}
    state.reach(Step(int(taken), (1.0, 0.5), (0.0, 0.5), 1.0, "flow", torch.empty(0), Streams([]), masks=masks))

    def sdpa(q):
        return F.scaled_dot_product_attention(q, call.k, call.v)

    return state.strengthen(0, call, sdpa, Rows.all_cond(len(call.q))), sdpa(call.q), state


@pytest.mark.parametrize("cross", [True, False])
def test_fusion_is_its_formula(cross):
    call = call_of(cross)
    maps = normal(2, 5, 2, 2, seed=6).softmax(1).float()
    new, live, _ = strengthened(call, 0.6, maps)
    image, text = slice(0, 16), slice(0, 5) if cross else slice(16, 21)
    weights = call.weights(slice(0, 16))
    large = F.interpolate(maps, size=(4, 4), mode="bilinear").flatten(2).mT[:, None]
    close(large.sum(-1), torch.ones(2, 1, 16))
    mass = weights[..., text].sum(-1, keepdim=True)
    fused = weights.clone()
    fused[..., text] = 0.4 * weights[..., text] + 0.6 * mass * large
    close(new[:, :, image].float(), fused @ call.values(), atol=1e-5, rtol=1e-5)
    assert torch.equal(new[:, :, 16:], live[:, :, 16:])  # the text's own rows


@pytest.mark.parametrize("cross", [True, False])
def test_maps_are_shares_of_the_text_and_those_of_one_head_change_nothing(cross):
    call = call_of(cross, heads=1)
    new, live, state = strengthened(call, taken=True)
    assert torch.equal(new, live) and state.differed
    maps = state.maps()["map-fusion:cond"]
    close(maps.sum(1), torch.ones(2, 4, 4))
    same, _, state = strengthened(call, 1.0, maps)
    close(same, live, atol=1e-6, rtol=1e-6)
    many = call_of(cross)
    text = slice(0, 5) if cross else slice(16, 21)
    close(strengthened(many, taken=True)[2].maps()["map-fusion:cond"],
          share(many.weights(slice(0, 16))[..., text]).mT.unflatten(2, (4, 4)))


def sd3_stage(path, weight, pipe, seeds=(8, 9)):
    call = sd3_call(seeds)
    told = {name: {"encoder_hidden_states": call[f"{prefix}prompt_embeds"],
                   "pooled_projections": call[f"{prefix}pooled_prompt_embeds"]}
            for name, prefix in (("cond", ""), ("uncond", "negative_"))}
    return emag.guided(denoiser_of(pipe.transformer), MapFusion(weight), emag.CFG(3.0), path=path, conditions=told,
                       backbone=pipe.transformer)


def pixart_stage(path, weight, pipe, seeds=(8, 9)):
    call, net = pixart_call(seeds), pipe.transformer

    def denoiser(x, t, condition):
        told, times = {"resolution": None, "aspect_ratio": None}, torch.full((len(x),), 1000 * t)
        return net(x, timestep=times, **condition, added_cond_kwargs=told, return_dict=False)[0][:, :4]

    told = {name: {"encoder_hidden_states": call[f"{prefix}prompt_embeds"],
                   "encoder_attention_mask": call[f"{prefix}prompt_attention_mask"]}
            for name, prefix in (("cond", ""), ("uncond", "negative_"))}
    return emag.guided(denoiser, MapFusion(weight), emag.CFG(3.0), path=path, conditions=told, backbone=net)


@pytest.mark.parametrize(("make", "stage"), [(sd3, sd3_stage), (pixart, pixart_stage)], ids=["joint", "across"])
def test_maps_of_a_stage_act_in_the_next_one(make, stage):
    """In networks: off at 0, off in the first stage, its effect grows with the weight, and rows are their own."""
    pipe, sizes = make(), [(4, 4), (8, 8)]
    paths = stage_paths(FLOW, (Stage((4, 4), 3, 0.4), Stage((8, 8), 2)), 1.0)
    x = normal(2, 4, 4, 4, seed=4).float()

    def run(weight, x=x, seeds=(8, 9)):
        return cascade([stage(path, weight, pipe, seeds) for path in paths], x, sizes)

    plain, little, much = run(0.0), run(0.3), run(0.9)
    near, far = ((made - plain).abs().max() for made in (little, much))
    assert 1e-6 < near < far
    first = stage(paths[0], 0.9, pipe)
    close(sample(first, x), sample(stage(paths[0], 0.0, pipe), x), atol=0, rtol=0)
    maps = fused_maps(first)
    assert set(maps) == {"map-fusion:cond", "map-fusion:uncond"} and {one.shape[0] for one in maps.values()} == {2}
    close(maps["map-fusion:cond"].sum(1), torch.ones(2, *maps["map-fusion:cond"].shape[2:]))
    alone = run(0.9, x[1:], (9,))
    assert (alone - much[1:]).abs().max() <= 1e-4 * much.abs().max()


def test_what_it_refuses():
    for wrong in (((0, 4), 3), ((4, 4), 0), ((4, 4), 3, 1.0)):
        with pytest.raises(BadValue, match="a stage has a size"):
            Stage(*wrong)
    with pytest.raises(BadValue, match="take fewer steps"):
        stage_paths(Path.flow((1.0, 0.5, 0.0)), (Stage((4, 4), 3),), 1.0)
    with pytest.raises(BadValue, match="has a size for each"):
        cascade(models(emag.CFG(3.0)), X, [(6, 4)])
    with pytest.raises(BadValue, match="the first that of x"):
        cascade(models(emag.CFG(3.0)), X, [(8, 8), (12, 8)])
    with pytest.raises(BadValue, match="weight lies in"):
        MapFusion(1.5)
    with pytest.raises(Unsupported, match="was given maps of 3 images"):
        strengthened(call_of(True), maps=torch.ones(3, 5, 4, 4))
