"""Rows that are frames: states see a row for each sample, in which frames are heads; conditions are given once a sample."""

import pytest
import torch

import emag
from emag.engine.arguments import check_copies
from emag.engine.attending import Attending
from emag.engine.framed import Frames
from emag.engine.reading import read_network
from emag.errors import BadValue, Unsupported
from emag.maths.attention import Attention
from emag.methods import METHODS as C
from emag.testing.small import noise
from emag.testing.small_unet_video import FRAMES, MORE, animate, motion_unet
from spy import attribute, denoiser_of

WINDOW = emag.Window.progress(0, 0.2, 0.95)
CASES = {name: MORE[name] for name in ("animatediff", "svd", "latte")}
ALL = pytest.mark.parametrize("name", CASES)
SDPA = torch.nn.functional.scaled_dot_product_attention


def calls_of(case, pipe, rule, **more):
    """Every call of the network in a run, with what it answered, as (args, kwargs, answer)."""
    net, calls = denoiser_of(pipe), []
    original = net.forward

    def forward(*args, **kwargs):
        made = original(*args, **kwargs)
        calls.append((args, kwargs, (made[0] if isinstance(made, tuple) else made.sample).clone()))
        return made

    with attribute(net, "forward", forward), emag.guide(pipe, rule) as run:
        out = case.run(pipe, **{"num_inference_steps": 2, **more})
    return calls, run, out


# a frame attends alone, and a state sees all frames of a sample


def call(rows, heads=2, keys=5, mask=False):
    q, k, v = (noise(at, rows, heads, count, 4) for at, count in ((1, 5), (2, keys), (3, keys)))
    kept = noise(4, rows, 1, 1, keys) > -0.5
    kept[..., 0] = True  # each row keeps something
    return Attention(q, k, v, slice(0, 5), kept if mask else None, cross=keys != 5)


def live(part):
    return SDPA(part.q, part.k, part.v, attn_mask=part.mask)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("keys", [5, 7])
def test_frames_as_heads_is_attention_frame_by_frame(keys, mask):
    given, seen = call(6, keys=keys, mask=mask), []

    def handle(view, inner):
        seen.append(view)
        assert torch.equal(inner(view), Frames(3).opened(live(given)))
        return inner(Attention(2 * view.q, view.k, view.v, view.image, view.mask))

    made = Frames(3).around(handle)(given, live)
    expected = torch.cat([SDPA(2 * given.q[i:i + 1], given.k[i:i + 1], given.v[i:i + 1],
                               attn_mask=None if given.mask is None else given.mask[i:i + 1]) for i in range(6)])
    assert torch.allclose(made, expected, atol=1e-6) and seen[0].q.shape == (2, 6, 5, 4) and seen[0].frames == 3
    # sample 1, frame 2, head 1: its own queries
    assert torch.equal(seen[0].q[1, 2 * 2 + 1], given.q[3 + 2, 1])
    weights = torch.softmax(given.q @ given.k.mT / 2 + (0 if given.mask is None else (~given.mask).float() * -1e9), -1)
    assert torch.allclose(seen[0].weights(slice(0, 5))[1, 5], weights[5, 1], atol=1e-6)


@ALL
@pytest.mark.parametrize("at", [0, 2])
def test_a_block_perturbed_is_the_network_with_that_attention(name, at):
    case = CASES[name]
    pipe = case.pipe()
    calls, _, _ = calls_of(case, pipe, C["pag"](2.0, layers=(at,)))
    (args, kwargs, _), (_, _, weak) = calls[:2]
    net, within = denoiser_of(pipe), []
    module = read_network(net).blocks[at].attention

    def attention(query, key, value, *more, **given):
        return value if within else SDPA(query, key, value, *more, **given)  # O = V: each token sees itself alone

    handles = (module.register_forward_pre_hook(lambda *call: within.append(True)),
               module.register_forward_hook(lambda *call: within.clear()))
    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
        made = net(*args, **kwargs)
    for handle in handles:
        handle.remove()
    expected = (made[0] if isinstance(made, tuple) else made.sample)[-len(weak):]
    assert (weak - expected).norm() < 1e-4 * expected.norm()


@ALL
def test_a_sample_picks_one_block_for_all_its_frames(name):
    case = CASES[name]
    _, run, _ = calls_of(case, case.pipe(), emag.EMAG(1.5, layers=(0, 1, 2), window=WINDOW), num_inference_steps=4)
    assert run.stats.images == 2 and all(picks is None or len(picks) == 2 for picks in run.stats.picks)


def test_heads_are_those_of_each_frame():
    case = CASES["animatediff"]
    pipe = case.pipe()
    every = tuple(range(read_network(pipe.unet).blocks[0].attention.heads))
    made = [calls_of(case, pipe, C["pag"](2.0, layers=(0,), heads=heads))[2] for heads in ((0,), (1,), every, None)]
    assert torch.allclose(made[2], made[3], atol=1e-5) and not torch.allclose(made[0], made[1], atol=1e-3)
    with pytest.raises(BadValue, match="do not exist"):
        calls_of(case, pipe, C["pag"](2.0, layers=(0,), heads=(len(every),)))


RULES = {"tpg": C["tpg"](2.0), "seg": C["seg"](2.0), "slg": C["slg"](2.0), "asag": C["asag"](2.0), "s2": C["s2"](2.0, 0.4),
         "pladis": C["pladis"](cross=True), "nag": C["nag"](cross=True, scale=5.0, alpha=0.4, sigma_end=0.0),
         "cads": emag.CADS(0.3, 0.3, 0.9, 0.7), "icg": C["icg"]()}


@pytest.mark.parametrize("rule", RULES)
def test_methods_act_and_rows_stay_apart(rule):
    case = CASES["animatediff"]
    pipe = case.pipe()
    plain, made = case.run(pipe, num_inference_steps=2), calls_of(case, pipe, RULES[rule])[2]
    alone = calls_of(case, pipe, RULES[rule], seeds=(9,))[2]
    assert not torch.allclose(made, plain, atol=1e-4)
    assert (made[1:] - alone).norm() < 1e-3 * alone.norm()


# conditions: one for all frames of a sample


def test_frames_of_a_sample_keep_one_condition():
    case = CASES["animatediff"]
    calls, _, _ = calls_of(case, case.pipe(), emag.CADS(0.3, 0.3, 0.9, 0.7))
    text = calls[0][1]["encoder_hidden_states"]
    assert len(text) == 4 * FRAMES and torch.equal(text, text[::FRAMES].repeat_interleave(FRAMES, 0))


def test_a_further_condition_is_given_once_a_sample():
    case = CASES["animatediff"]
    pipe, given = case.pipe(), {"other": {"encoder_hidden_states": noise(5, 1, 5, 12)}}
    plain = case.run(pipe, num_inference_steps=2)
    with emag.guide(pipe, C["negative"](3.0, negative="other"), conditions=given) as run:
        assert not torch.allclose(case.run(pipe, num_inference_steps=2), plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned


def test_conditions_that_differ_from_frame_to_frame_are_refused():
    network, x, text = read_network(motion_unet()), noise(1, 2, 4, FRAMES, 8, 8), noise(2, 2, 5, 12)
    check_copies(network, (x, 1), {"encoder_hidden_states": text.repeat_interleave(FRAMES, 0)})
    with pytest.raises(Unsupported, match="differs from frame to frame"):
        check_copies(network, (x, 1), {"encoder_hidden_states": noise(2, 2 * FRAMES, 5, 12)})


def test_what_works_around_attention_modules_is_refused():
    with pytest.raises(Unsupported, match="are frames, several for each sample"):
        Attending(read_network(animate().unet), {(0, False)})
