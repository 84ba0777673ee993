"""Self-attention guidance: the mask, the x_t of the weak pass, and what its prediction means at another x."""

import inspect
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

import emag
from emag.core import COND, Rows, combine
from emag.hosts.defaults import resolve
from emag.maths import attention
from emag.maths.attention import Attention
from emag.maths.layout import pack, unpack
from emag.maths.predictions import convert, from_x0, to_x0
from emag.maths.pyramid import blur
from emag.methods import METHODS as C
from emag.methods.weak.sag import SelfBlurred, SelfBlurredState, on_pixels, received
from exact import Gaussian
from reference import SPACES, at_step, softmax_map, space_of
from spy import attribute, blocks_of, scheduler_steps
from tiny import CASES, noise

close = torch.testing.assert_close
SAG = C["sag"]
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
IN_SPACES = pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
SIDE, PATCH = 6, 2  # latents, and the side of a token in them


def call(seed=1, count=(SIDE // PATCH) ** 2, text=0, heads=2, groups=None, sharp=3.0, rows=2):
    """An attention call over image tokens, then text tokens."""
    q, k = sharp * noise(seed, rows, heads, count + text, 8), noise(seed + 50, rows, groups or heads, count + text, 8)
    return Attention(q, k, noise(seed + 99, *k.shape), slice(0, count))


def state(x, cond, path="vp", space="epsilon", threshold=1.0, kernel=5, sigma=1.0, seen=None, grid=None):
    """A state that saw a step with these x_t and prediction, and the step."""
    step = at_step(path, space, x, grid=grid)
    made = SelfBlurredState(SelfBlurred((0,), threshold, kernel, sigma))
    made.begin(0)
    for at in seen or [call()]:
        made.watch(0, at, Rows(slice(0, len(x)), None, len(x)))
    made.predicted(step, cond)
    return made, step


def latents(seed=1, rows=2, height=SIDE, width=SIDE):
    return noise(seed, rows, 4, height, width).double()


def input_of(made):
    return made.inputs({"hidden_states": made.step.x}, ())["hidden_states"]


# the mask


@pytest.mark.parametrize("text", [0, 5])
@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("size", [1, 300, 10**8])
def test_received_attention_is_the_column_sum_of_the_mean_map(text, groups, size, monkeypatch):
    """diffusers reads the number of heads off `attention_head_dim`; here 2 heads of 8."""
    monkeypatch.setattr(attention, "CHUNK_BYTES", size)
    seen = call(text=text, groups=groups)
    image = softmax_map(seen.q, seen.k)[:, :, seen.image, seen.image]
    image /= image.sum(-1, keepdim=True)
    close(received(seen).double(), image.mean(1).sum(1), atol=1e-5, rtol=1e-5)
    close(received(seen).mean(1), torch.ones(2))


def test_text_first_and_masked_keys():
    seen = call(text=5)
    order = [*range(9, 14), *range(9)]
    turned = Attention(seen.q[:, :, order], seen.k[:, :, order], seen.v[:, :, order], slice(5, 14))
    close(received(turned), received(seen))
    mask = torch.ones(2, 1, 1, 14, dtype=torch.bool)
    mask[1, ..., 3] = False
    there = received(Attention(seen.q, seen.k, seen.v, seen.image, mask))
    assert there[1, 3] == 0 and there[0, 3] > 0
    close(there[0], received(seen)[0])


@pytest.mark.parametrize("count", [9, 49, 1024])
def test_even_attention_is_not_masked_at_all(count):
    """Every token gets exactly 1, and the threshold is strict, whatever rounding does."""
    even = Attention(*torch.zeros(3, 2, 2, count, 8), slice(0, count))
    mass = received(even)
    close(mass, torch.ones(2, count))
    side = int(count**0.5) * 2
    made, _ = state(latents(1, 2, side, side), latents(2, 2, side, side), seen=[even])
    assert not made.shift.any()


def test_masks_are_the_mean_over_blocks():
    a, b = call(1), call(2)
    made, _ = state(latents(), latents(2), seen=[a, b])
    mean = (received(a) + received(b)) / 2
    inside = on_pixels(mean > 1, (2, 4, SIDE, SIDE))
    assert inside.any() and not inside.all()
    assert torch.equal(made.shift != 0, inside.expand(2, 4, SIDE, SIDE))


def test_tokens_are_put_on_their_pixels():
    tokens = torch.arange(6.).view(1, 6)
    expected = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5.]])
    assert torch.equal(on_pixels(tokens, (1, 4, 4, 6))[0, 0], expected)


@pytest.mark.parametrize("shape", [(1, 4, 2, 4, 6), (1, 4, 5, 5), (1, 4, 24)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(emag.Unsupported, match="sag cannot place 6 image tokens"):
        on_pixels(torch.zeros(1, 6), shape)


# x_t of the weak pass


@IN_SPACES
@pytest.mark.parametrize(("threshold", "kernel"), [(1e9, 5), (1.0, 1)], ids=["nothing masked", "no blur"])
def test_without_a_mask_or_a_blur_x_is_itself(path, space, threshold, kernel):
    x, cond = latents(), latents(2)
    made, step = state(x, cond, path, space, threshold, kernel)
    assert torch.equal(input_of(made), x)
    rule = SAG(7.0, (0,), threshold, kernel)
    weak = made.at_step(cond)
    assert torch.equal(combine((rule,), cond, {COND: cond, rule.perturbation: weak}, step, [{}]), cond)
    assert made.differed is not None and not made.differed


@IN_SPACES
def test_x_is_the_blurred_x0_noised_with_the_predicted_epsilon(path, space):
    x, cond, (alpha, sigma) = latents(), latents(2), space_of(path)
    made, _ = state(x, cond, path, space)
    x0, epsilon = to_x0(cond, x, alpha, sigma, space), convert(cond, x, alpha, sigma, space, "epsilon")
    mask = on_pixels(received(call()) > 1, x.shape).double()
    blurred = blur(x0, made.spec.taps)
    close(input_of(made), alpha * (mask * blurred + (1 - mask) * x0) + sigma * epsilon)
    close(input_of(made), mask * (alpha * blurred + sigma * epsilon) + (1 - mask) * x)  # masking before or after: the same


def test_as_diffusers_masks_and_blurs():
    from diffusers.pipelines.deprecated.stable_diffusion_sag.pipeline_stable_diffusion_sag import StableDiffusionSAGPipeline

    side, heads = 16, 2
    scheduler = DDIMScheduler()
    alpha = float(scheduler.alphas_cumprod[500]) ** 0.5
    seen = call(count=(side // 2) ** 2)
    x, cond = noise(1, 2, 4, side, side), noise(2, 2, 4, side, side)
    theirs = SimpleNamespace(unet=SimpleNamespace(config=SimpleNamespace(attention_head_dim=heads)), scheduler=scheduler)
    t, maps = torch.tensor(500), softmax_map(seen.q, seen.k).float().flatten(0, 1)
    x0 = StableDiffusionSAGPipeline.pred_x0(theirs, x, cond, t)
    expected = StableDiffusionSAGPipeline.sag_masking(theirs, x0, maps, (side // 2, side // 2), t, cond)
    made = SelfBlurredState(SelfBlurred((0,), 1.0, 9, 1.0))
    made.watch(0, seen, Rows(slice(0, 2), None, 2))
    made.predicted(at_step("vp", "epsilon", x, alphas=(alpha,) * 8, sigmas=((1 - alpha**2) ** 0.5,) * 8), cond)
    close(input_of(made).float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 10)])
def test_sequences_of_patches_are_the_same_image(height, width):
    x, cond, seen = latents(1, 2, height, width), latents(2, 2, height, width), [call(count=height * width // 4)]
    flat, _ = state(x, cond, "flow", "flow", seen=seen)
    grid = (height // 2, width // 2, 2)
    place = at_step(x=x, grid=grid)
    packed, _ = state(pack(x, place), pack(cond, place), "flow", "flow", seen=seen, grid=grid)
    close(unpack(input_of(packed), place), input_of(flat))
    close(unpack(packed.at_step(pack(cond, place)), place), flat.at_step(cond))


def test_samples_have_masks_of_their_own():
    seen = call(rows=3)
    both, _ = state(latents(1, 3), latents(2, 3), seen=[seen])
    alone, _ = state(latents(1, 3)[1:2], latents(2, 3)[1:2], seen=[seen.rows(slice(1, 2))])
    close(input_of(both)[1:2], input_of(alone))
    watched = SelfBlurredState(both.spec)
    watched.watch(0, seen, Rows(slice(1, 3), slice(0, 1), 3))
    close(received(watched.held[0]), received(seen)[1:])


# what a prediction at another x means


@IN_SPACES
def test_all_spaces_see_the_epsilon_at_the_other_x(path, space):
    """An exact denoiser: whatever it returns, the push is that of its epsilons, each at its own x."""
    alpha, sigma = space_of(path)
    root = torch.randn(144, 144, generator=torch.Generator().manual_seed(5)).double() / 12
    data = Gaussian(noise(4, 144).double(), root @ root.mT)
    x = latents()
    cond = data.predict(x, alpha, sigma, space)
    made, step = state(x, cond, path, space)
    weak = made.at_step(data.predict(input_of(made), alpha, sigma, space))
    rule = SAG(3.0, (0,), kernel=5)
    guided = combine((rule,), cond, {COND: cond, rule.perturbation: weak}, step, [{}])
    clean, there = (data.predict(at, alpha, sigma, "epsilon") for at in (x, input_of(made)))
    assert not torch.allclose(clean, there, atol=1e-2)
    close(convert(guided, x, alpha, sigma, space, "epsilon"), clean + 2.0 * (clean - there))
    assert made.differed


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-9])
def test_near_pure_noise_a_flow_stays_finite(alpha):
    """Through epsilon it would be a difference divided by alpha."""
    x, v = latents(), latents(2)
    made = SelfBlurredState(SelfBlurred((0,), 1.0, 5, 1.0))
    made.watch(0, call(), Rows(slice(0, 2), None, 2))
    made.predicted(at_step("flow", "flow", x, alphas=(alpha,) * 8, sigmas=(1 - alpha,) * 8), v)
    close(input_of(made), x, atol=10 * alpha, rtol=0)
    x0 = x - (1 - alpha) * v
    close(made.at_step(v) - v, (blur(x0, made.spec.taps) - x0) * (made.shift != 0))


def test_at_pure_noise_nothing_is_evaluated():
    rule = SAG(2.0, (0,), kernel=5)
    assert rule.branches(at_step("flow", "flow", alphas=(0.0,) * 8, sigmas=(1.0,) * 8)) == ()
    assert rule.branches(at_step("flow", "flow")) == rule.weak
    for name, steps in (("sd3", 3), ("dit", 4)):  # sd3 begins at pure noise, dit a little below
        pipe = CASES[name].pipe()
        with emag.guide(pipe, SAG(2.0, (1,))) as handle:
            CASES[name].run(pipe, num_inference_steps=4)
        assert handle.stats.evaluations == handle.stats.planned == 4 * (4 * 2 + steps)


# in pipelines


def evaluated(case, *rules, steps=4):
    """A guided run in float64: the arguments and predictions of all true evaluations, and what the scheduler got."""
    pipe = case.pipe().to(torch.float64)
    given = {key: value.double() if key.endswith("embeds") else value for key, value in case.call((8, 9)).items()}
    seen, original, signature = [], pipe.transformer.forward, inspect.signature(pipe.transformer.forward)

    def forward(*args, **kwargs):
        answer = original(*args, **kwargs)
        out = answer[0] if isinstance(answer, tuple) else answer.sample
        seen.append(SimpleNamespace(values=dict(signature.bind(*args, **kwargs).arguments), out=out.clone()))
        return answer

    with attribute(pipe.transformer, "forward", forward), scheduler_steps(pipe) as steps_seen, emag.guide(pipe, *rules):
        pipe(**{**given, "num_inference_steps": steps})
    return pipe, seen, steps_seen


def weak_of(case, seen):
    """(clean, weak) evaluations of the steps that have a weak one."""
    if case.name == "true-cfg":
        text = seen[0].values["encoder_hidden_states"]
        seen = [one for one in seen if torch.equal(one.values["encoder_hidden_states"], text)]
    pairs = [(a, b) for a, b in pairwise(seen) if float(_time(a)) == float(_time(b))]
    assert len(pairs) == 3 + (case.name in ("dit", "pixart", "sigma"))
    return pairs


def _time(one):
    return one.values["timestep"].flatten()[0]


@ALL
@torch.no_grad()
def test_the_weak_pass_is_the_network_at_the_blurred_x(case):
    """From its first block on: nothing recorded is put in its way. Text and all else are the conditional rows'."""
    pipe, seen, _ = evaluated(case, SAG(1.5, (1, 2), kernel=5))
    net = deepcopy(pipe.transformer)
    for clean, weak in weak_of(case, seen):
        answer = net(**weak.values)
        close(weak.out, answer[0] if isinstance(answer, tuple) else answer.sample, atol=1e-9, rtol=1e-9)
        rows = slice(0, 2) if case.name == "dit" else slice(-2, None)
        moved = weak.values["hidden_states"] - clean.values["hidden_states"][rows]
        assert moved.any() and not moved.all()
        if "encoder_hidden_states" in weak.values:
            assert torch.equal(weak.values["encoder_hidden_states"], clean.values["encoder_hidden_states"][rows])


@pytest.mark.parametrize("name", ["sd3", "dit"])
def test_a_step_written_out(name):
    """u + w (c - u) + s (c - p(x~)) in epsilon, each at its own x, against what the scheduler gets."""
    case, w, s = CASES[name], 3.0, 0.75
    _, seen, steps = evaluated(case, emag.CFG(w), SAG(1 + s, (1, 2), kernel=5))
    clean, weak = weak_of(case, seen)[0]
    at = int(case.name == "sd3")
    net_space = "flow" if name == "sd3" else "epsilon"
    sigma = float(_time(clean)) / 1000
    alpha = 1 - sigma
    if name == "dit":
        alpha = float(DDIMScheduler().alphas_cumprod[int(_time(clean))]) ** 0.5
        sigma = (1 - alpha**2) ** 0.5
    x, other = clean.values["hidden_states"][:2], weak.values["hidden_states"]
    c, u = (clean.out[2:], clean.out[:2]) if name == "sd3" else (clean.out[:2, :4], clean.out[2:, :4])
    here = {key: convert(p, x, alpha, sigma, net_space, "epsilon") for key, p in (("c", c), ("u", u))}
    there = convert(weak.out[:, :4], other, alpha, sigma, net_space, "epsilon")
    guided = here["u"] + w * (here["c"] - here["u"]) + s * (here["c"] - there)
    expected = from_x0(to_x0(guided, x, alpha, sigma, "epsilon"), x, alpha, sigma, net_space)
    close(steps[at][:2, :4].double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "dit", "flux"])
def test_a_weak_pass_at_the_same_x_is_an_error(name, monkeypatch):
    """Also on flow networks, where the shift alone would make a difference."""
    pipe = CASES[name].pipe()
    monkeypatch.setattr(SelfBlurredState, "inputs", lambda self, values, condition: {})
    with pytest.raises(emag.NoEffect, match="never differed"), emag.guide(pipe, SAG(2.0, (1,))):
        CASES[name].run(pipe, num_inference_steps=4)


def test_blocks_that_are_not_reached_are_an_error():
    made = SelfBlurredState(SelfBlurred((0,), 1.0, 5, 1.0))
    with pytest.raises(emag.NoEffect, match="saw no attention"):
        made.predicted(at_step(x=latents()), latents(2))


def test_defaults_and_values():
    assert resolve(SAG(), ("DiTTransformer2DModel",), 28) == SAG(1.2, (12, 13, 14, 15), kernel=31)
    assert resolve(SAG(), ("SD3Transformer2DModel",), 24) == SAG(1.75, (12,), kernel=9)
    assert sum(SelfBlurred((0,), 1.0, 31, 9.0).taps) == pytest.approx(1.0)
    bad = [{"kernel": 4}, {"kernel": 0}, {"kernel": 3.0}, {"kernel": True}, {"sigma": 0.0}, {"sigma": float("inf")},
           {"sigma": float("nan")}, {"threshold": -1.0}, {"threshold": float("nan")}, {"layers": ()}, {"scale": -1.0}]
    for values in bad:
        with pytest.raises(emag.BadValue, match="sag"):
            SAG(**values)


def test_only_the_evaluated_steps_read_attention(monkeypatch):
    """Maps are made where a weak pass needs them; elsewhere queries and keys are held until the next step."""
    from emag.methods.weak import sag as self_attention

    made = []
    monkeypatch.setattr(self_attention, "received", lambda seen: made.append(1) or received(seen))
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, SAG(emag.Interval(2.0, 0.5, 0.8, "progress"), (1, 2))):
        CASES["sd3"].run(pipe, num_inference_steps=8)
    assert len(made) == 2 * 3
    assert len(blocks_of(pipe)) == 4
