"""Smoothed and rectified queries: the blur as a matrix, its limits, the token grid, the energy steps, and ERG as u."""

import math

import diffusers
import pytest
import torch
from diffusers import guiders
from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

import emag
from emag.engine.reading import read_network
from emag.errors import BadValue, NoEffect, Unsupported
from emag.methods import METHODS as C
from emag.methods.common.rectified import RectifiedAttention
from emag.methods.weak.seg import SmoothedQueries, SmoothedState, blur_kernel, smoothed
from emag.schedules import Interval
from reference import at_step, softmax_map, tensors
from spy import scheduler_steps
from tiny import CASES
from weak import GRID, IMAGE, blurred, call_of, near, perturbed, sdpa_of, weak_predictions

SEG, ERG, PUSH = C["seg"], C["erg"], C["erg-push"]
DOUBLE = torch.zeros(0).double()
close = torch.testing.assert_close
as_read = pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="defects of diffusers 0.42.1")
SIGMAS = (1e-3, 0.3, 0.5, 1.0, 2.7, 10.0, 100.0, 9999.0, 1e4)


def field(*grid, seed=1):
    return tensors(seed, 1, 2, 3, math.prod(grid), 4)[0].double()


# the blur


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("grid", [(8, 8), (5, 8), (7, 3), (2, 9), (6, 4)])
def test_it_is_the_published_convolution_on_any_grid(grid, sigma):
    q = field(*grid)
    close(smoothed(q, grid, sigma), blurred(q.unflatten(2, grid), sigma).flatten(2, 3))


def test_frames_are_blurred_apart():
    q = field(2, 3, 4)
    made = smoothed(q, (2, 3, 4), 1.0)
    close(made[:, :, :12], smoothed(q[:, :, :12], (3, 4), 1.0))
    close(made[:, :, 12:], smoothed(q[:, :, 12:], (3, 4), 1.0))


@pytest.mark.parametrize("sigma", [0.0, *SIGMAS])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_rows_of_the_kernel_add_up_to_1(count, sigma):
    close(blur_kernel(count, sigma, DOUBLE).sum(1), torch.ones(count, dtype=torch.float64))
    assert (blur_kernel(count, sigma, DOUBLE) >= 0).all()


def test_limits():
    q = field(*GRID)
    assert torch.equal(smoothed(q, GRID, 0.0), q)
    close(smoothed(q, GRID, 1e-3), q)
    close(smoothed(q, GRID, 1e7), q.mean(2, keepdim=True).expand_as(q))
    even = q[:, :, :1].expand_as(q)
    for sigma in SIGMAS:
        close(smoothed(even, GRID, sigma), even)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 1e7])
def test_blurred_queries_are_blurred_logits(sigma):
    q, k = field(*GRID), field(*GRID, seed=2)
    blur = torch.kron(blur_kernel(GRID[0], sigma, DOUBLE), blur_kernel(GRID[1], sigma, DOUBLE))
    close(smoothed(q, GRID, sigma) @ k.mT, blur @ (q @ k.mT))


def test_an_infinite_blur_makes_all_image_rows_one():
    call = call_of("text-image")
    made = perturbed(SmoothedQueries((0,), 1e7), call)[0][:, :, call.image]
    close(made, made[:, :, :1].expand_as(made))
    finite = perturbed(SmoothedQueries((0,), 1.0), call)[0][:, :, call.image]
    assert not near(finite, finite[:, :, :1].expand_as(finite), 0.1)


def test_equal_queries_are_no_effect():
    call = call_of("image")
    even = type(call)(call.q[:, :, :1].expand_as(call.q), call.k, call.v, call.image)
    made, differed = perturbed(SmoothedQueries((0,), 1.0), even)
    close(made, sdpa_of(even)(even.q))
    assert not differed


def test_tokens_of_further_images_are_refused():
    with pytest.raises(Unsupported, match="further images"):
        perturbed(SmoothedQueries((0,), 1.0), call_of(), grid=(2, 4))


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_a_blur_that_makes_no_sense_is_refused(sigma):
    with pytest.raises(BadValue, match="sigma"):
        SEG(2.0, (1,), sigma)


# the grid


@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_a_run_tells_its_token_grid(name, monkeypatch):
    seen, perturb = [], SmoothedState.perturb
    monkeypatch.setattr(SmoothedState, "perturb", lambda self, *args: seen.append(self.grid) or perturb(self, *args))
    case, pipe = CASES[name], CASES[name].pipe()
    with emag.guide(pipe, SEG(2.0, (1,), 1.0)):
        case.run(pipe, num_inference_steps=2, width=16)
    assert seen == [(4, 8)] * 2


def test_frames_come_first():
    network = read_network(CASES["sd3"].pipe().transformer)
    assert network.tokens({"hidden_states": torch.empty(2, 4, 5, 8, 12)}) == (5, 4, 6)


# the three defects of diffusers, and ours without them


def theirs(q, sigma):
    size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    return _gaussian_blur_2d(q.clone(), size, sigma, 9999.0)


@as_read
def test_diffusers_never_installs_its_hook():
    guider = guiders.SmoothedEnergyGuidance(5.0, 3.0, seg_guidance_config=guiders.smoothed_energy_guidance
                                            .SmoothedEnergyGuidanceConfig([1]))
    guider.set_state(5, 10, torch.tensor(500))
    net = CASES["pixart"].pipe().transformer
    batches = guider.prepare_inputs({"x": (torch.zeros(1), torch.zeros(1))})
    for _ in batches:
        guider.prepare_models(net)
        assert not any(hasattr(module.to_q, "_diffusers_hook") for name, module in net.named_modules()
                       if name.endswith("attn1"))
    assert len(batches) == 3


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux"])
def test_ours_acts(name):
    case, pipe = CASES[name], CASES[name].pipe()
    plain = case.run(pipe, num_inference_steps=2, **{case.scale: 1.0})
    with emag.guide(pipe, SEG(3.0, (1,), 1.0)):
        assert not near(case.run(pipe, num_inference_steps=2, **{case.scale: 1.0}), plain, 1e-3)


def test_a_finite_blur_is_no_mean_and_an_infinite_one_is():
    """Theirs has the two swapped. 8x8 tokens."""
    q = field(8, 8)[:, 0]
    mean = q.mean(1, keepdim=True).expand_as(q)
    finite, infinite = (smoothed(q[:, None], (8, 8), sigma)[:, 0] for sigma in (1.0, 1e7))
    assert near(infinite, mean) and not near(finite, mean, 0.2)
    if diffusers.__version__ == "0.42.1":
        assert near(theirs(q, 1.0), mean) and not near(theirs(q, 1e7), mean, 0.1)


def test_every_image_token_is_blurred_wherever_it_sits():
    """Theirs takes the largest square number of tokens from the start: of 12, 9; and text, where it comes first."""
    call = call_of("text-image")
    seen = []
    state = SmoothedQueries((0,), 1e7).start((1.0,), None)
    state.place(GRID)
    state.perturb(0, call, lambda q: seen.append(q) or sdpa_of(call)(q))
    moved = (seen[-1] != call.q).any(-1).all(1)
    assert moved[:, call.image].all() and not moved[:, :call.image.start].any()
    if diffusers.__version__ == "0.42.1":
        flat = call.q[:, 0]
        assert (theirs(flat, 1.0) != flat).any(-1)[:, :16].all()  # 16 of 17, the 5 of text among them


# the energy


def uniform(call):
    return call.v.mean(2, keepdim=True).expand(-1, -1, IMAGE, -1)


def test_neutral_values_are_standard_attention():
    call = call_of(dtype=torch.float32)
    made, differed = perturbed(RectifiedAttention((0,), 1.0), call)
    assert torch.equal(made, sdpa_of(call)(call.q)) and not differed
    assert PUSH(2.0, (1,), 1.0).neutral and PUSH(1.0).neutral and not PUSH(2.0, (1,), 1.0, steps=2).neutral


def test_no_temperature_is_the_mean_of_the_values_and_no_step_the_query():
    call = call_of()
    close(perturbed(RectifiedAttention((0,), 0.0), call)[0][:, :, call.image], uniform(call))
    close(perturbed(RectifiedAttention((0,), 0.5, 1.0, 0.0, 3), call)[0][:, :, call.image], call.image_queries())
    close(perturbed(RectifiedAttention((0,), 0.5, 0.0), call)[0][:, :, call.image], torch.zeros_like(uniform(call)))


def test_the_temperature_does_not_scale_the_residual():
    """With one half step: half the query itself, whatever tau; folding tau into the query would scale that half too."""
    call = call_of("image")
    weights = softmax_map(call.q, call.k, scale=0.1 * call.q.shape[-1] ** -0.5)
    close(perturbed(RectifiedAttention((0,), 0.1, 1.0, 0.5), call)[0], 0.5 * call.q + 0.5 * weights @ call.v)


def test_it_acts_behind_a_query_norm():
    """Scaling what comes out of `to_q` does nothing on a network that normalises queries."""
    pipe = CASES["sd3"].pipe()
    plain = CASES["sd3"].run(pipe, num_inference_steps=2)
    with emag.guide(pipe, PUSH(2.0, (1,), 0.01)):
        assert not near(CASES["sd3"].run(pipe, num_inference_steps=2), plain, 1e-3)
    projection = pipe.transformer.transformer_blocks[1].attn.to_q
    projection.weight.data *= 0.5
    projection.bias.data *= 0.5
    assert near(CASES["sd3"].run(pipe, num_inference_steps=2), plain, 1e-4)


@pytest.mark.parametrize("change", [{"tau": -0.1}, {"tau": float("nan")}, {"alpha": float("inf")}, {"gamma": -1.0},
                                    {"steps": 0}, {"steps": 1.5}, {"layers": 3}])
@pytest.mark.parametrize("rule", [ERG, PUSH])
def test_values_that_make_no_sense_are_refused(rule, change):
    with pytest.raises(BadValue):
        rule(**change)


@pytest.mark.parametrize("change", [{"kickoff": -0.1}, {"kickoff": 1.1}, {"kickoff": float("nan")}, {"early": "none"}])
def test_a_kickoff_that_makes_no_sense_is_refused(change):
    with pytest.raises(BadValue, match="erg"):
        ERG(**change)


# ERG in the place of the unconditional branch


def steps(name, rules, scale, count=4, **more):
    """What the scheduler got, and the run."""
    case, pipe = CASES[name], CASES[name].pipe()
    with scheduler_steps(pipe) as seen, emag.guide(pipe, *rules) as run:
        case.run(pipe, num_inference_steps=count, **{case.scale: scale}, **more)
    return seen, run


@pytest.mark.parametrize("name", ["sd3", "dit", "true-cfg"])
@pytest.mark.parametrize("by", ["host", "cfg"])
def test_under_cfg_it_is_the_formula_of_the_paper(name, by):
    """weak + w (cond - weak), which the pushing form gives without CFG; and the unconditional rows are not evaluated."""
    after = (emag.CFG(3.0),) if by == "cfg" else ()
    made, run = steps(name, (ERG((1,), kickoff=0.0), *after), 3.0)
    expected, other = steps(name, (PUSH(3.0, (1,)),), 1.0)
    for mine, pushed in zip(made, expected, strict=True):
        assert near(mine[:len(pushed)], pushed, 2e-4)  # DiT's scheduler gets both halves, which are equal
    depth = CASES[name].depth(CASES[name].pipe())
    assert run.stats.evaluations == other.stats.evaluations == 4 * (depth + depth - 1)


@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_before_the_kickoff_it_is_cfg_or_no_guidance(name):
    first = {early: steps(name, (ERG((1,), kickoff=0.5, early=early),), 3.0) for early in ("uncond", "cond")}
    plain, alone = steps(name, (), 3.0), steps(name, (), 1.0)
    close(first["uncond"][0][:2], plain[0][:2], atol=1e-4, rtol=1e-4)
    close(first["cond"][0][:2], alone[0][:2], atol=1e-4, rtol=1e-4)
    assert not near(first["uncond"][0][2], plain[0][2], 1e-3)
    depth = CASES[name].depth(CASES[name].pipe())
    assert first["uncond"][1].stats.evaluations == 2 * 2 * depth + 2 * (2 * depth - 1)
    assert first["cond"][1].stats.evaluations == 2 * depth + 2 * (2 * depth - 1)


@pytest.mark.parametrize("early", ["uncond", "cond"])
def test_unconditional_rows_that_another_rule_keeps_do_not_come_through(early):
    rule, branches = ERG((1,), kickoff=0.5, early=early), {"cond": torch.ones(1), "uncond": torch.zeros(1)}
    assert rule.new_null(branches, at_step(index=3), {}) is (None if early == "uncond" else branches["cond"])
    weak = {**branches, rule.perturbation: torch.full((1,), 2.0)}
    assert rule.new_null(weak, at_step(index=4), {}) is weak[rule.perturbation]


def test_at_scale_1_it_is_the_conditional_prediction():
    made, _ = steps("sd3", (ERG((1,), kickoff=0.0), emag.CFG(1.0)), 3.0)
    close(made, steps("sd3", (), 1.0)[0], atol=1e-4, rtol=1e-4)


def test_it_goes_under_apg():
    made, _ = steps("sd3", (ERG((1,), kickoff=0.0), emag.APG(3.0, 1.0, 0.0, 0.0)), 3.0)
    close(made, steps("sd3", (PUSH(3.0, (1,)),), 1.0)[0], atol=1e-3, rtol=1e-3)


def test_the_pushing_form_kicks_off_by_schedule():
    plain, _ = steps("sd3", (), 3.0)
    made, run = steps("sd3", (PUSH(Interval(1.5, 0.5, 1.0, "progress"), (3,)),), 3.0)
    assert torch.equal(torch.stack(made[:2]), torch.stack(plain[:2])) and not torch.equal(made[2], plain[2])
    assert run.stats.evaluations == 4 * 2 * 4 + 2 * 1


def test_a_kickoff_behind_the_last_step_is_an_error():
    with pytest.raises(NoEffect):
        steps("sd3", (ERG((1,), kickoff=0.9),), 3.0)


def test_without_unconditional_rows_the_pushing_form_goes_alone():
    with pytest.raises(BadValue, match="unconditional"):
        steps("sd3", (ERG((1,)),), 1.0)
    assert len(weak_predictions("flux", PUSH(2.0, (1,)))) == 2


def test_with_a_combiner_it_guides_a_distilled_network():
    """No unconditional rows: no guidance before the kick-off, the formula after it."""
    made, run = steps("flux", (ERG((1,), kickoff=0.5), emag.CFG(3.0)), 3.5)
    expected, other = steps("flux", (PUSH(Interval(3.0, 0.5, 1.0, "progress"), (1,)),), 3.5)
    close(made, expected, atol=2e-4, rtol=2e-4)
    assert run.stats.evaluations == other.stats.evaluations == 4 * 5 + 2 * 4
