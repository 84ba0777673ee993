"""FasterCache's CFG-Cache and residual CFG."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks.faster_cache import FasterCacheDenoiserHook

import emag
from emag.core import COND, Step, combine, with_null
from emag.errors import BadValue
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods.null.ag import AG
from emag.methods.null.cfg_cache import CFGCache, low_pass
from emag.methods.null.linear_ag import LinearAG
from emag.methods.null.rcfg import RCFG, residual
from reference import SPACES, scheduler_steps, tensors
from saving import COUNT, HOSTS, close, exact, images, levels, pairs, steps, walk
from tiny import CASES

# FasterCache's CFG-Cache (M25)


SHAPES = [(2, 4, 8, 8), (2, 4, 7, 9), (1, 3, 12, 5), (2, 3, 4, 6, 10), (2, 3, 11)]


def shifted(x, share=5, low=True):
    """Frequencies of x inside (or outside) the disk, as the authors draw it: centred, and complex."""
    dims = (-1,) if x.ndim == 3 else (-2, -1)
    spectrum = torch.fft.fftshift(torch.fft.fftn(x, dim=dims), dim=dims)
    places = torch.meshgrid(*[torch.arange(x.shape[d]) - x.shape[d] // 2 for d in dims], indexing="ij")
    disk = sum(place**2 for place in places) <= (min(x.shape[d] for d in dims) // share) ** 2
    kept = spectrum * (disk if low else ~disk)
    return kept, lambda s: torch.fft.ifftn(torch.fft.ifftshift(s, dim=dims), dim=dims)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_low_frequencies_are_those_of_the_disk_and_real(shape):
    x = tensors(1, 1, *shape)[0].double()
    spectrum, back = shifted(x)
    assert back(spectrum).imag.abs().max() < 1e-12
    low = low_pass(x, 0.2)
    close(low, back(spectrum).real, **exact)
    close(low_pass(low, 0.2), low, **exact)
    close(low + back(shifted(x, low=False)[0]).real, x, **exact)
    assert low_pass(torch.ones_like(x), 0.0).allclose(torch.ones_like(x))
    close(low_pass(x, 2.0), x, **exact)


def test_video_is_filtered_frame_by_frame():
    x = tensors(1, 1, 2, 3, 4, 6, 10)[0].double()
    for frame in range(4):
        close(low_pass(x, 0.2)[:, :, frame], low_pass(x[:, :, frame], 0.2), **exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compounding", [True, False])
def test_cfg_cache_is_the_published_run(shape, compounding):
    """Complex parts, kept and grown as published, against ours."""
    rule = CFGCache(every=3, below=0.8, low=1.3, high=0.7, low_range=(0.3, 0.7), high_range=(0.1, 0.5),
                    compounding=compounding)
    run = pairs(COUNT, *shape)
    at = [Step(i, *levels("vp"), levels("vp")[0][i], "epsilon", torch.empty(0), Streams([])) for i in range(COUNT)]
    _, nulls, evaluated = walk((rule,), at, run)
    assert evaluated == [0, 1, 3, 6]  # times .95 .85 .75 .65 .55 .45 .35 .25
    for i, (cond, uncond) in enumerate(run):
        if i in evaluated:
            low, high = (shifted(uncond - cond, low=part)[0] for part in (True, False))
            close(nulls[i], uncond, **exact)
            continue
        grow = 1.3 if 0.3 < at[i].time < 0.7 else 1, 0.7 if 0.1 < at[i].time < 0.5 else 1
        new, back = (grow[0] * low, grow[1] * high), shifted(cond)[1]
        close(nulls[i], cond + back(new[0] + new[1]).real, **exact)
        if compounding:
            low, high = new


def test_cfg_cache_with_factors_1_keeps_the_difference():
    """And so it gives the cached u where c has not changed."""
    cond, uncond = pairs()[0]
    rule = CFGCache(every=COUNT, below=2.0, low=1.0, high=1.0)
    _, nulls, evaluated = walk((rule,), steps(), [(cond, uncond)] + [(cond, torch.full_like(cond, math.nan))] * (COUNT - 1))
    assert evaluated == [0]
    for null in nulls:
        close(null, uncond, **exact)


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (1, 3, 7, 5)], ids=str)
def test_cfg_cache_at_its_defaults_is_that_of_diffusers(shape):
    """20 steps of its hook, on batches [u, c] of single frames."""
    run = [tuple(t.float() for t in pair) for pair in pairs(20, *shape)]
    sigmas = tuple(1 - i / 20 for i in range(20))
    at = [Step(i, sigmas, tuple(1 - s for s in sigmas), sigmas[i], "flow", torch.empty(0), Streams([])) for i in range(20)]
    now = SimpleNamespace(at=at[0])

    def factor(low, high):
        return lambda module: 1.1 if low < 1000 * now.at.time < high else 1.0

    hook = FasterCacheDenoiserHook(5, (-1, 641), "BCHW", False, ["hidden_states"], lambda: 1000 * now.at.time,
                                   factor(99, 901), factor(-1, 301))
    hook.initialize_hook(None)
    hook.fn_ref = SimpleNamespace(original_forward=lambda hidden_states: hidden_states)
    _, nulls, evaluated = walk((CFGCache(),), at, run)
    for now.at, (cond, uncond), null in zip(at, run, nulls):
        close(null, hook.new_forward(None, hidden_states=torch.cat([uncond, cond]))[:shape[0]], atol=1e-5, rtol=1e-5)
    assert evaluated == [0, 1, 2, 3, 4, 5, 6, 7, 10, 15]


def test_cfg_cache_unpacks_patches():
    """A sequence of 2x2 patches gives what the image gives."""
    run = pairs(COUNT, 2, 4, 6, 10)

    def packed(image):
        return image.reshape(2, 4, 3, 2, 5, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 15, 16)

    rule = CFGCache(every=4, below=2.0)
    plain = walk((rule,), steps(), run)[1]
    patches = walk((rule,), steps(grid=(3, 5, 2)), [tuple(map(packed, pair)) for pair in run])[1]
    for a, b in zip(plain, patches):
        close(packed(a), b, **exact)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_cfg_cache_spares_its_steps(case, combiner):
    rule = CFGCache(every=3, below=0.9)
    pipe = CASES[case].pipe()
    with scheduler_steps(pipe) as at:
        CASES[case].run(pipe)
    due = [i for i, step in enumerate(at) if i % 3 and float(step.t) < 900]
    assert len(due) >= 3 and images(case, rule, *combiner)[1] == 2 * COUNT - len(due)


# residual CFG (M24)


def test_rcfg_is_the_recursion_of_the_residual_noise():
    """StreamDiffusion's LCM steps with c_out 1 and c_skip 0: r' = e' + (alpha' / sigma') dx, dx = sigma (r - g) / alpha."""
    sigmas, alphas = levels("vp")
    noises = [t.double() for t in tensors(20, COUNT)]
    conds = [t.double() for t in tensors(30, COUNT)]
    x, r, state = sigmas[0] * noises[0], noises[0], {}
    for i in range(COUNT - 1):
        step = Step(i, sigmas, alphas, sigmas[i], "epsilon", x, Streams([]))
        close(RCFG().new_null({COND: conds[i]}, step, state), r, **exact)
        g = 0.9 * r + 1.2 * (conds[i] - 0.9 * r)
        p = with_null((RCFG(delta=0.9),), {COND: conds[i]}, step, [{}])
        close(combine((emag.CFG(1.2),), conds[i], p, step, [{}]), g, **exact)
        clean, dx = (x - sigmas[i] * g) / alphas[i], sigmas[i] * (r - g) / alphas[i]
        x = alphas[i + 1] * clean + sigmas[i + 1] * noises[i + 1]
        r = noises[i + 1] + alphas[i + 1] / sigmas[i + 1] * dx
        close(r, (x - alphas[i + 1] * 0) / sigmas[i + 1], **exact)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_rcfg_onetime_fixes_the_first_clean_image(path, space):
    at, run = steps(path, space), pairs()
    _, nulls, evaluated = walk((RCFG("onetime"),), at, run)
    assert evaluated == [0]
    fixed = convert(run[0][1], at[0].x, at[0].alpha, at[0].sigma, space, "x0")
    for step, null in zip(at, nulls):
        close(convert(null, step.x, step.alpha, step.sigma, space, "x0"), fixed, **exact)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_rcfg_delta_scales_the_noise(path, space):
    step, clean = steps(path, space)[3], pairs()[0][0]
    noise = (step.x - step.alpha * clean) / step.sigma
    found = residual(clean, step, 0.7)
    close(convert(found, step.x, step.alpha, step.sigma, space, "epsilon"), 0.7 * noise, **exact)


def test_rcfg_where_it_agrees_and_where_guidance_is_off():
    step = steps("vp", "epsilon")[3]
    r = step.x / step.sigma
    p = with_null((RCFG(delta=0.8),), {COND: 0.8 * r}, step, [{}])
    close(combine((emag.CFG(1.2),), p[COND], p, step, [{}]), p[COND], **exact)
    cond = pairs()[0][0]
    p = with_null((RCFG(delta=0.8),), {COND: cond}, step, [{}])
    assert torch.equal(combine((emag.CFG(1.0),), cond, p, step, [{}]), cond)


@pytest.mark.parametrize("delta", [1.0, 0.7])
def test_rcfg_at_pure_noise_says_that_the_image_is_0(delta):
    step = Step(0, (1.0,), (0.0,), 1.0, "flow", tensors(1, 1)[0].double(), Streams([]))
    close(RCFG(delta=delta).new_null({COND: step.x}, step, {}), step.x, **exact)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
@pytest.mark.parametrize(("kind", "evaluations"), [("self", COUNT), ("onetime", COUNT + 1), ("full", 2 * COUNT)])
def test_rcfg_spares_all_evaluations_or_all_but_one(case, combiner, kind, evaluations):
    assert images(case, RCFG(kind), *combiner)[1] == evaluations


# all


@HOSTS
@pytest.mark.parametrize("off", [AG(1.5), CFGCache(every=1), LinearAG(until=0.0), LinearAG(every=1), RCFG("full")], ids=repr)
def test_savers_that_are_off_leave_cfg(case, off):
    assert off.neutral
    made, rows, _ = images(case, off, emag.CFG(3.0))
    plain, all_rows, _ = images(case, emag.CFG(3.0))
    assert torch.equal(made, plain) and rows == all_rows == 2 * COUNT


@pytest.mark.parametrize("bad", [
    lambda: AG(math.nan), lambda: AG(0.9, "flow"), lambda: LinearAG((1.0, 2.0)), lambda: LinearAG((1.0, math.nan, 1.0)),
    lambda: LinearAG(pairs=0), lambda: LinearAG(every=0), lambda: LinearAG(until=math.nan), lambda: LinearAG(steps=(0,)),
    lambda: LinearAG(steps=(2, 2)), lambda: LinearAG((1.0,) * 4, steps=(1, 2)), lambda: CFGCache(every=0),
    lambda: CFGCache(below=math.nan), lambda: CFGCache(low=-1.0), lambda: CFGCache(high=math.inf),
    lambda: CFGCache(low_range=(0.1,)), lambda: CFGCache(high_range=(0.5, 0.1)), lambda: CFGCache(radius=math.nan),
    lambda: CFGCache(low_range=(0.1, math.nan)), lambda: RCFG("initialize"), lambda: RCFG(delta=math.nan),
    lambda: RCFG(delta=-1.0)])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()
