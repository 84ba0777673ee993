"""The pyramid, and the rules that guide frequency bands: FDG and FA-CFG."""

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import COND, UNCOND, combine
from emag.maths.layout import from_planes, pack, planes
from emag.maths.pyramid import BINOMIAL, blur, collapse, laplacian
from emag.maths.vectors import project
from emag.methods import METHODS as C
from emag.schedules import Interval
from reference import SPACES, at_step, branches_in, tensors

close = torch.testing.assert_close
SIZES = [(16, 16), (7, 5), (1, 9), (12, 1), (2, 3), (33, 20)]
LATENTS = {"image": (2, 4, 10, 7), "video": (2, 4, 3, 9, 6), "audio": (2, 8, 27), "packed": (2, 15, 16)}
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
kinds = pytest.mark.parametrize("kind", LATENTS)


def exact(actual, expected):
    close(actual, expected, atol=1e-10, rtol=1e-10)


def image(*shape, seed=0):
    return tensors(seed, 1, *shape)[0].double()


def at(kind, space="x0", path="vp"):
    """A step whose latents are of a kind, and two branches."""
    x = image(*LATENTS[kind], seed=9)
    step = at_step(path, space, x=x, grid=(3, 5, 2) if kind == "packed" else None)
    return step, dict(zip((COND, UNCOND), (t.double() for t in tensors(1, 2, *LATENTS[kind]))))


def guided(rule, p, step):
    return combine((rule,), p[COND], p, step, [{}])


# planes and the pyramid


@kinds
def test_planes_and_back(kind):
    step, p = at(kind)
    made = planes(p[COND], step)
    assert made.ndim == 4 and torch.equal(from_planes(made, step, p[COND]), p[COND])
    shapes = {"image": (2, 4, 10, 7), "video": (2, 12, 9, 6), "audio": (2, 8, 1, 27), "packed": (2, 4, 6, 10)}
    assert made.shape == shapes[kind]


@sizes
@pytest.mark.parametrize("levels", [1, 2, 3, 6])
def test_the_pyramid_adds_up(size, levels):
    x = image(2, 3, *size)
    bands = laplacian(x, levels)
    exact(collapse(bands), x)
    for k, band in enumerate(bands):
        assert band.shape[-2:] == tuple(-(-side // 2**k) for side in size)


@sizes
def test_the_pyramid_is_linear_and_leaves_constants_to_the_coarse_rest(size):
    x, y = image(2, 3, *size), image(2, 3, *size, seed=1)
    for a, b, both in zip(laplacian(x, 3), laplacian(y, 3), laplacian(2 * x - 5 * y, 3)):
        exact(both, 2 * a - 5 * b)
    *details, rest = laplacian(torch.full_like(x, 3.0), 3)
    assert all(band.abs().max() < 1e-12 for band in details)
    exact(rest, torch.full_like(rest, 3.0))


def test_bands_are_ordered_fine_to_coarse():
    board = (-1.0) ** torch.arange(16).double()
    fine, rest = laplacian(board.expand(1, 1, 16, 16), 2)
    assert fine.abs().mean() > 0.8 and rest.abs().mean() < 0.05
    wave = torch.cos(torch.arange(16).double() * torch.pi / 8).expand(1, 1, 16, 16)
    fine, rest = laplacian(wave, 2)
    assert rest.abs().mean() > 3 * fine.abs().mean()


@sizes
@pytest.mark.parametrize("taps", [BINOMIAL, (0.2, 0.5, 0.3)])
def test_blur_is_a_convolution_with_mirrored_edges(size, taps):
    x = image(2, 3, *size)
    reach = len(taps) // 2
    if min(size) <= reach:
        close(blur(torch.ones_like(x), taps), torch.ones_like(x))
        return
    kernel = torch.outer(torch.tensor(taps), torch.tensor(taps)).double()[None, None]
    padded = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, "reflect")
    close(blur(x, taps), F.conv2d(padded, kernel)[:, 0].view_as(x), atol=1e-7, rtol=1e-6)


# M13: FDG


@kinds
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_fdg_with_equal_scales_is_cfg(kind, levels):
    step, p = at(kind)
    exact(guided(C["fdg"]((3.5,) * levels), p, step), p[UNCOND] + 3.5 * (p[COND] - p[UNCOND]))


@kinds
def test_fdg_with_all_scales_1_is_the_conditional(kind):
    step, p = at(kind)
    assert torch.equal(guided(C["fdg"]((1.0, 1.0)), p, step), p[COND])
    assert torch.equal(guided(C["fdg"]((1.0, 1.0, 1.0), (0.0,)), p, step), p[COND])


@kinds
def test_a_constant_difference_feels_the_lowest_scale_alone(kind):
    step, p = at(kind)
    shift = from_planes(torch.ones_like(planes(p[COND], step)) * image(2, 1, 1, 1), step, p[COND])
    p[UNCOND] = p[COND] - shift
    exact(guided(C["fdg"]((40.0, 20.0, 3.0)), p, step), p[COND] + 2 * shift)


@kinds
def test_fdg_is_linear_in_the_difference(kind):
    step, p = at(kind)
    first, second = (t.double() for t in tensors(5, 2, *LATENTS[kind]))

    def push(shift):
        return guided(C["fdg"]((6.0, 1.0, 2.0)), {COND: p[COND], UNCOND: p[COND] - shift}, step) - p[COND]

    exact(push(2 * first - 3 * second), 2 * push(first) - 3 * push(second))


@kinds
def test_fdg_formula(kind):
    """Band by band, the parallel part against the conditional's own band."""
    step, p = at(kind)
    scales, shares = (5.0, 0.5, 2.0), (0.25, 1.0, 0.0)
    ours, null = (laplacian(planes(p[name], step), 3) for name in (COND, UNCOND))
    bands = []
    for w, share, c, u in zip(scales, shares, ours, null):
        parallel, orthogonal = project(c - u, c)
        bands.append(c + (w - 1) * (orthogonal + share * parallel))
    exact(guided(C["fdg"](scales, shares), p, step), from_planes(collapse(bands), step, p[COND]))
    spread = [c + (w - 1) * (c - u - 0.5 * project(c - u, c)[0]) for w, c, u in zip(scales, ours, null)]
    exact(guided(C["fdg"](scales, (0.5,)), p, step), from_planes(collapse(spread), step, p[COND]))


def test_the_published_scales_push_fine_structure_harder():
    step, p = at("image")
    fine = torch.ones(10, 7).double()
    fine[::2] *= -1
    fine[:, ::2] *= -1
    p[UNCOND] = p[COND] - fine
    assert C["fdg"]().scales == (10.0, 5.0)
    assert dots(guided(C["fdg"](), p, step) - p[COND], fine) > dots(guided(emag.CFG(9.0), p, step) - p[COND], fine)


def dots(a, b):
    return float((a * b).sum())


def test_one_value_and_lists_are_taken_too():
    assert C["fdg"]([4, 2], 0.5) == C["fdg"]((4.0, 2.0), (0.5,)) and C["fdg"](3.0).scales == (3.0,)
    assert hash(C["fdg"]([4, 2], [0.5, 1])) == hash(C["fdg"]((4.0, 2.0), (0.5, 1.0)))


def test_a_band_can_have_a_schedule_of_its_own():
    early = Interval(5.0, 0.0, 0.5, "progress")
    for index, w in ((0, 5.0), (3, 5.0), (4, 1.0), (7, 1.0)):
        step, p = at("image")
        step = at_step(space="x0", x=step.x, index=index)
        exact(guided(C["fdg"]((early, 3.0)), p, step), guided(C["fdg"]((w, 3.0)), p, step))


@kinds
def test_scales_per_sample(kind):
    step, p = at(kind)

    class Each(emag.Schedule):
        def at(self, branches, step, state):
            state["asked"] = state.get("asked", 0) + 1
            return torch.tensor([2.0, 7.0])

    for make in (lambda w: C["fdg"]((w, 3.0)), lambda w: C["fa-cfg"](w, 3.0)):
        state = {}
        out = combine((make(Each(0.0)),), p[COND], p, step, [state])
        exact(out, torch.cat([guided(make(w), p, step)[i:i + 1] for i, w in enumerate((2.0, 7.0))]))


def test_the_bands_of_a_rule_keep_states_apart():
    step, p = at("image")

    class Counting(emag.Schedule):
        def at(self, branches, step, state):
            state["asked"] = state.get("asked", 0) + 1
            return float(state["asked"])

    for rule in (C["fdg"]((Counting(0.0), Counting(0.0))), C["fa-cfg"](Counting(0.0), Counting(0.0))):
        states = [{}]
        first, second = (combine((rule,), p[COND], p, step, states) for _ in range(2))
        assert torch.equal(first, p[COND])
        exact(second, 2 * p[COND] - p[UNCOND])


# M14: FA-CFG


@kinds
@pytest.mark.parametrize("previous", [1.0, 0.5, 0.3])
def test_facfg_with_equal_scales_is_cfg(kind, previous):
    step, p = at(kind)
    exact(guided(C["fa-cfg"](3.5, 3.5, previous), p, step), p[UNCOND] + 3.5 * (p[COND] - p[UNCOND]))


@pytest.mark.parametrize("kind", ["image", "packed", "audio"])
def test_facfg_formula(kind):
    step, p = at(kind)

    def split(x):
        full = planes(x, step)
        size = (1, 9) if kind == "audio" else (4, 3)
        small = F.interpolate(full, size, mode="bilinear", align_corners=False, antialias=False)
        low = from_planes(F.interpolate(small, full.shape[-2:], mode="bilinear", align_corners=False), step, x)
        return x - low, low, size

    (c_high, c_low, size), (u_high, u_low, _) = split(p[COND]), split(p[UNCOND])
    expected = (u_low + 2.0 * (c_low - u_low)) + (u_high + 9.0 * (c_high - u_high))
    exact(guided(C["fa-cfg"](9.0, 2.0, size=size), p, step), expected)


def test_the_previous_stage_as_a_fraction_or_a_size():
    step, p = at("image")
    exact(guided(C["fa-cfg"](9.0, 2.0, 0.5), p, step), guided(C["fa-cfg"](9.0, 2.0, size=(5, 4)), p, step))
    assert not torch.allclose(guided(C["fa-cfg"](9.0, 2.0, 0.5), p, step), guided(C["fa-cfg"](9.0, 2.0, 0.3), p, step))
    tiny = at_step(space="x0", x=image(2, 4, 1, 1))
    p = {COND: image(2, 4, 1, 1), UNCOND: image(2, 4, 1, 1, seed=4)}
    exact(guided(C["fa-cfg"](9.0, 2.0, 0.1), p, tiny), guided(emag.CFG(2.0), p, tiny))


@kinds
def test_a_difference_that_the_previous_stage_holds_feels_low_alone(kind):
    """Planes of constants survive the way down and up; so does everything where the stages have one size."""
    step, p = at(kind)
    flat = from_planes(torch.ones_like(planes(p[COND], step)) * image(2, 1, 1, 1), step, p[COND])
    p[UNCOND] = p[COND] - flat
    exact(guided(C["fa-cfg"](45.0, 3.0, 0.5), p, step), p[COND] + 2 * flat)
    p[UNCOND] = image(*LATENTS[kind], seed=7)
    exact(guided(C["fa-cfg"](45.0, 3.0, 1.0), p, step), guided(emag.CFG(3.0), p, step))


def test_frames_of_a_video_are_split_one_by_one():
    step, p = at("video")
    for rule in (C["fdg"]((4.0, 2.0)), C["fa-cfg"](4.0, 2.0)):
        made = guided(rule, p, step)
        for frame in range(3):
            part = {name: t[:, :, frame] for name, t in p.items()}
            exact(made[:, :, frame], guided(rule, part, at_step(space="x0", x=step.x[:, :, frame])))


def test_packed_latents_are_split_as_the_image_they_are():
    step, p = at("packed")
    plain = at_step(space="x0", x=planes(step.x, step))
    for rule in (C["fdg"]((4.0, 2.0), (0.3,)), C["fa-cfg"](4.0, 2.0)):
        unpacked = {name: planes(t, step) for name, t in p.items()}
        exact(guided(rule, p, step), pack(guided(rule, unpacked, plain), step))


def test_handing_a_host_a_zero_and_a_share_reproduces_the_result():
    """FreCaS returns (0, g / w) and lets the pipeline's own u + w (c - u) make g of it."""
    step, p = at("image")
    g = guided(C["fa-cfg"](9.0, 2.0), p, step)
    exact(guided(emag.CFG(7.5), {COND: g / 7.5, UNCOND: torch.zeros_like(g)}, step), g)


def test_parallel_and_orthogonal_are_those_of_clean_samples():
    rule, p = C["fdg"]((6.0, 2.0), (0.2,)), at("image")[1]
    for path, spaces in SPACES.items():
        for space in spaces:
            step = at("image", space, path)[0]
            made = guided(rule, branches_in(space, step, "x0", p), step)
            exact(branches_in("x0", step, space, {COND: made})[COND], guided(rule, p, at("image", "x0", path)[0]))


@pytest.mark.parametrize("rule", [C["fdg"]((6.0, 2.0, 3.0)), C["fa-cfg"](6.0, 2.0, 0.4)], ids=lambda rule: rule.name)
def test_one_push_in_every_space(rule):
    """The operator on D is linear: what a network predicts does not matter."""
    p = at("image")[1]
    push = guided(rule, p, at_step(space="x0", x=image(*LATENTS["image"], seed=9))) - p[COND]
    for path, spaces in SPACES.items():
        for space in spaces:
            made = guided(rule, p, at_step(path, space, x=image(*LATENTS["image"], seed=9)))
            exact(made - p[COND], push)
