"""Our rules against the guiders of diffusers where those are right, and the smallest call that shows it where they are not.

kornia is not needed: the guider of FDG gets its two pyramid functions written out below.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, guiders
from diffusers.guiders import frequency_decoupled_guidance as fdg

import emag
from emag.core import COND, UNCOND, combine, with_null
from emag.methods import METHODS as C
from emag.schedules import SCHEDULES
from reference import at_step, tensors

close = torch.testing.assert_close
COUNT = 10


def pair(seed=1, *shape):
    return [t.double() for t in tensors(seed, 2, *(shape or (2, 4, 16, 8)))]


def theirs(guider, cond, uncond, index=5):
    guider.set_state(index, COUNT, torch.tensor(500))
    return guider.forward(cond, uncond).pred


def ours(rules, cond, uncond, space="flow", index=5, states=None):
    step = at_step("flow", space, x=cond, index=index, sigmas=(0.65,) * COUNT, alphas=(0.35,) * COUNT)
    states = [{} for _ in rules] if states is None else states
    after = with_null(rules, {COND: cond, UNCOND: uncond}, step, states)
    return combine(rules, after[COND], after, step, states)


# the same


@pytest.mark.parametrize("w", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("original", [False, True])
def test_cfg_and_rescale(w, phi, original):
    guider = guiders.ClassifierFreeGuidance(w - 1 if original else w, phi, original)
    close(ours((emag.CFG(w), C["rescale"](phi)), *pair()), theirs(guider, *pair()))


@pytest.mark.parametrize("w", [0.0, 1.0, 7.5])
def test_tcfg(w):
    cond, uncond = pair()
    uncond = 0.6 * cond + 0.5 * uncond  # their fp32 decomposition is poor where the two singular values are close
    made = ours((C["tcfg"](), emag.CFG(w)), cond, uncond)
    close(made, theirs(guiders.TangentialClassifierFreeGuidance(w), cond, uncond), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cfg_zero_star_and_its_count(index, steps):
    guider = guiders.ClassifierFreeZeroStarGuidance(5.0, steps)
    made = ours((C["zero-star"](), emag.CFG(5.0), C["zero-init"](steps)), *pair(), index=index)
    close(made, theirs(guider, *pair(), index=index), atol=1e-5, rtol=1e-5)
    assert bool((made == 0).all()) == (index < steps)


@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.7])
@pytest.mark.parametrize(("eta", "radius"), [(0.0, 0.0), (0.3, 5.0), (1.0, 2.0)])
def test_apg_in_the_original_formulation(momentum, eta, radius):
    """With w - 1, and in the network's own space: x0 here, where ours works."""
    guider = guiders.AdaptiveProjectedGuidance(3.0, momentum, radius, None, eta, 0.0, True)
    guider.set_state(0, COUNT, torch.tensor(500))
    guider.prepare_inputs({"x": torch.zeros(1)})
    rules, states = (emag.APG(4.0, eta, radius, momentum),), [{}]
    for index in range(5):
        made = ours(rules, *pair(index), space="x0", index=index, states=states)
        close(made, theirs(guider, *pair(index), index=index))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("w", [1.0, 4.0, 10.0])
def test_mambo_g(alpha, w):
    """On sequences of patches; on images the guider fails, below."""
    cond, uncond = pair(1, 2, 15, 16)
    uncond = 0.6 * cond + uncond
    made = ours((emag.CFG(SCHEDULES["mambo-g"](w, alpha)),), cond, uncond)
    close(made, theirs(guiders.MagnitudeAwareGuidance(w, alpha), cond, uncond))


# FDG, its pyramid functions written out as kornia has them


def five_by_five(x):
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=x.dtype) / 16
    padded = F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), "reflect")
    return F.conv2d(padded, torch.outer(taps, taps)[None, None])[:, 0].view_as(x)


def pyrup(x):
    size = [2 * side for side in x.shape[-2:]]
    return five_by_five(F.interpolate(x, size, mode="bilinear", align_corners=False))


def build_laplacian_pyramid(x, levels):
    height, width = x.shape[-2:]
    powers = [1 << (side - 1).bit_length() for side in (height, width)]
    stride = 1 << (levels - 1)
    if (powers[0] != height and powers[1] != width) or height % stride or width % stride:
        x = F.pad(x, (0, powers[1] - width, 0, powers[0] - height), "reflect")
    gauss = [x]
    for _ in range(levels - 1):
        size = [side // 2 for side in gauss[-1].shape[-2:]]
        gauss.append(F.interpolate(five_by_five(gauss[-1]), size, mode="bilinear", align_corners=False))
    return [a - pyrup(b) for a, b in pairwise(gauss)] + [gauss[-1]]


@pytest.fixture
def guider_of_fdg(monkeypatch):
    monkeypatch.setattr(fdg, "_CAN_USE_KORNIA", True)
    monkeypatch.setattr(fdg, "upsample_and_blur_func", pyrup, raising=False)
    monkeypatch.setattr(fdg, "build_laplacian_pyramid_func", build_laplacian_pyramid, raising=False)
    return guiders.FrequencyDecoupledGuidance


@pytest.mark.parametrize("scales", [(10.0, 5.0), (3.0,), (12.0, 1.5, 0.5)])
@pytest.mark.parametrize("size", [(16, 16), (16, 12)])
def test_fdg(guider_of_fdg, scales, size):
    cond, uncond = pair(1, 2, 4, *size)
    close(ours((C["fdg"](scales),), cond, uncond), theirs(guider_of_fdg(list(scales)), cond, uncond))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_fdg_with_a_parallel_share_in_the_original_formulation(guider_of_fdg, share):
    """With w - 1, and in the network's own space: x0 here, where ours works."""
    guider = guider_of_fdg([9.0, 4.0], parallel_weights=share, use_original_formulation=True)
    close(ours((C["fdg"]((10.0, 5.0), (share,)),), *pair(), space="x0"), theirs(guider, *pair()))


# not the same: what is wrong there


def test_apg_by_default_starts_from_u_and_so_loses_the_parallel_part():
    """diffusers' default form is off the paper's by -(1 - eta) times the parallel part of the difference."""
    cond, uncond = pair()
    guider = guiders.AdaptiveProjectedGuidance(4.0, None, 0.0, None, 0.3)
    made = ours((emag.APG(4.0, 0.3, 0.0, 0.0),), cond, uncond, space="x0")
    parallel, _ = emag.methods.combining.apg.project(cond - uncond, cond)
    close(theirs(guider, cond, uncond), made - 0.7 * parallel)
    assert not torch.allclose(theirs(guider, cond, uncond), made, atol=1e-2)


def test_fdg_by_default_starts_from_u_too(guider_of_fdg):
    cond, uncond = pair()
    made = ours((C["fdg"]((4.0,), (0.3,)),), cond, uncond, space="x0")
    parallel, _ = emag.methods.combining.apg.project(cond - uncond, cond)
    close(theirs(guider_of_fdg([4.0], parallel_weights=0.3), cond, uncond), made - 0.7 * parallel)


def test_tcfg_cannot_say_whether_it_is_conditional():
    """The attribute it asks for does not exist; the error names the property."""
    assert guiders.ClassifierFreeGuidance().is_conditional is False
    with pytest.raises(AttributeError):
        assert guiders.TangentialClassifierFreeGuidance().is_conditional is False


def test_fdg_does_not_crop_what_it_pads(guider_of_fdg):
    cond, uncond = pair(1, 2, 4, 12, 20)
    assert theirs(guider_of_fdg([10.0, 5.0]), cond, uncond).shape == (2, 4, 16, 32)
    assert ours((C["fdg"]((10.0, 5.0)),), cond, uncond).shape == (2, 4, 12, 20)


def test_fdg_with_a_level_off_reads_a_band_it_has_not_set(guider_of_fdg):
    with pytest.raises(UnboundLocalError):
        theirs(guider_of_fdg([1.0, 5.0]), *pair())
    with pytest.raises(RuntimeError, match="size"):
        theirs(guider_of_fdg([5.0, 1.0]), *pair())
    for scales in ((1.0, 5.0), (5.0, 1.0)):
        assert ours((C["fdg"](scales),), *pair()).isfinite().all()


def test_mambo_g_fails_on_images():
    """Its norm takes two dimensions, and is given three."""
    with pytest.raises(RuntimeError, match="2-tuple"):
        theirs(guiders.MagnitudeAwareGuidance(4.0), *pair())
    assert ours((emag.CFG(SCHEDULES["mambo-g"](4.0)),), *pair()).isfinite().all()


def test_dynamic_thresholding_is_plain_clipping_by_default():
    """Its cap, sample_max_value, is 1.0 by default, and so is q."""
    x = 3 * tensors(3, 1)[0]

    def clean(**more):
        scheduler = DDIMScheduler(thresholding=True, prediction_type="sample", **more)
        scheduler.set_timesteps(COUNT)
        return scheduler.step(x, 500, torch.zeros_like(x)).pred_original_sample

    def thresholded(**more):
        return combine((C["dynamic-threshold"](**more),), x, {COND: x}, at_step(space="x0", x=x), [{}])

    assert torch.equal(clean(), x.clamp(-1, 1))
    close(clean(sample_max_value=1.0), thresholded(maximum=1.0))
    close(clean(sample_max_value=5.0, dynamic_thresholding_ratio=0.9), thresholded(percentile=0.9, maximum=5.0))
    assert not torch.allclose(thresholded(), clean(), atol=1e-2)
