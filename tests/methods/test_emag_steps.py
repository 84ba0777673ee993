"""How fast EMAG's average forgets: one decay a distinct timestep, on the whole schedule, however a run goes through it."""

import diffusers
import pytest
import torch

import emag
from emag.core import Rows
from emag.engine.trajectory import trajectory
from emag.hosts.lookup import host_of
from emag.lab.forecast import forecast
from emag.maths.attention import Attention
from emag.methods.emag.compat import Compat
from emag.methods.emag.tracker import Tracker
from emag.schedules import Window, equal_time
from emag.testing.small_control import MORE as CONTROL
from emag.testing.small_edits import MORE as EDITS
from emag.testing.small_ragged import MORE as RAGGED
from emag.testing.small_separate import MORE as SEPARATE
from emag.testing.small_unet import MORE as UNET
from emag.testing.small_video_more import MORE as VIDEO
from emag.testing.small_wan import MORE as WAN
from emag_averages import averages
from own_function import conditions, denoiser_of, first, sigmas_of
from reference import LAYERS, trace
from tiny import CASES, sd3

BETA = 0.988
ALL = Window.progress(0, 0, 1)
LATE = {name: case for cases in (CONTROL, EDITS, RAGGED, SEPARATE, UNET, VIDEO, WAN) for name, case in cases.items()
        if any(word in name for word in ("img2img", "inpaint", "v2v", "fill")) and name != "qwen-control-inpaint"}
close = torch.testing.assert_close


def EMAG(**more):
    return emag.EMAG(**{"scale": 1.5, "window": ALL, "beta": BETA, "beta_time": "equal-time", **more})


def betas(monkeypatch):
    """The decay of every average that runs to come start."""
    seen, average = [], Tracker._average

    def spied(self, block):
        made = average(self, block)
        seen.append(made.beta)
        return made

    monkeypatch.setattr(Tracker, "_average", spied)
    return seen


SECOND = {"sd3": ("FlowMatchHeunDiscreteScheduler",),
          "pixart": ("HeunDiscreteScheduler", "PNDMScheduler", "KDPM2DiscreteScheduler", "DPMSolverSinglestepScheduler",
                     "UniPCMultistepScheduler")}


@pytest.mark.parametrize("beta_time", ["step", "equal-time"])
@pytest.mark.parametrize(("name", "scheduler"), [(name, one) for name, names in SECOND.items() for one in names])
def test_the_average_takes_in_a_timestep_once(monkeypatch, name, scheduler, beta_time):
    case, seen = CASES[name], trace(monkeypatch)
    pipe = case.pipe()
    more = {"skip_prk_steps": True} if scheduler.startswith("PNDM") else {}
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **more)
    with emag.guide(pipe, EMAG(layers=LAYERS[name], beta_time=beta_time)) as run:
        case.run(pipe)
    path = trajectory(pipe.scheduler)
    count = len(path.sigmas)
    assert max(path.index) == count - 1
    beta = equal_time(BETA, count) if beta_time == "equal-time" else BETA
    for updates in seen.watched.values():
        assert len(updates) == count
        lives = [update.live("query") for update in updates]
        close(updates[-1].average.double(), averages(lives, beta)[-1], atol=2e-5, rtol=2e-5)
    picks = run.stats.picks
    assert [pick is not None for pick in picks] == [index > 0 for index in path.index]
    by_step = [{picks[at] for at, index in enumerate(path.index) if index == step} for step in range(count)]
    assert all(len(found) == 1 for found in by_step)  # one pick a step, as there is one statistic


def test_a_weak_pass_that_averages_does_so_once_a_timestep(monkeypatch):
    observed, observe = [], Tracker._observe

    def observing(self, block, call):
        observed.append((self.at, block))
        observe(self, block, call)

    monkeypatch.setattr(Tracker, "_observe", observing)
    pipe = sd3()
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    with emag.guide(pipe, EMAG(layers=(1, 2), compat="sd3-official")):
        CASES["sd3"].run(pipe)
    assert observed == [(step, block) for step in range(8) for block in (1, 2)]


def heun(model, x, sigmas):
    """Heun's method: a trial step, and one with the mean of the two slopes."""
    for i in range(len(sigmas) - 1):
        h, slope = sigmas[i + 1] - sigmas[i], model(x, i)
        if i + 2 < len(sigmas):
            slope = (slope + model(x + h * slope, i + 1)) / 2
        x = x + h * slope
    return x


def midpoint(model, x, sigmas):
    """A 2S solver: every other level of the path is a midpoint."""
    for i in range(0, len(sigmas) - 1, 2):
        halfway = x + (sigmas[i + 1] - sigmas[i]) * model(x, i)
        x = x + (sigmas[i + 2] - sigmas[i]) * model(halfway, i + 1)
    return x


@pytest.mark.parametrize("solve", [heun, midpoint])
def test_in_an_own_loop_with_a_solver_of_second_order(monkeypatch, solve):
    pipe, seen = sd3(), trace(monkeypatch)
    sigmas = sigmas_of(pipe)
    model = emag.guided(denoiser_of(pipe.transformer), EMAG(layers=(1, 2)), path=sigmas, backbone=pipe.transformer,
                        conditions=conditions())
    solve(model, first(), sigmas)
    count = len(sigmas) - 1
    for updates in seen.watched.values():
        assert len(updates) == count
        wanted = averages([update.live("query") for update in updates], equal_time(BETA, count))
        close(updates[-1].average.double(), wanted[-1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("more", [{}, {"variant": "map"}, {"variant": "map", "maps": "scaled8"}])
def test_where_a_block_gets_other_tokens_the_average_starts_afresh(more):
    """As if the run had begun there."""
    spec = emag.EMAG(layers=(1,), beta=0.6, window=ALL, **more).weak[0]
    sizes, states = (4, 4, 9, 9, 9), [Tracker(spec, ("apply",) * 5, None) for _ in range(2)]
    for at, size in enumerate(sizes):
        q, k, v = torch.randn(3, 2, 2, size, 3, generator=torch.Generator().manual_seed(at))
        for state in states[at < 2:]:
            state.begin(at)
            state.watch(1, Attention(q, k, v, image=slice(0, size)), Rows.all_cond(2))
            state.choose()
            if at == 2:
                assert state.statistic[1].tolist() == [0, 0]
    close(states[0].averages[1].value, states[1].averages[1].value, atol=0, rtol=0)
    close(states[0].statistic, states[1].statistic, atol=0, rtol=0)
    assert states[0].statistic[1].min() > 0


# late starts


@pytest.mark.parametrize("name", LATE)
def test_a_late_start_decays_as_the_whole_schedule_does(monkeypatch, name):
    case = LATE[name]
    pipe, seen = case.pipe(), betas(monkeypatch)
    assert host_of(pipe).strength == "strength"
    with emag.guide(pipe, EMAG(window=Window.progress(0, 0, 1))) as run:
        case.run(pipe, (8,), num_inference_steps=12, strength=0.5)
    assert run.stats.steps == 6 and seen and set(seen) == {BETA ** (250 / 12)}


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "HeunDiscreteScheduler", "EulerDiscreteScheduler"])
def test_a_late_start_with_other_schedulers(monkeypatch, scheduler):
    case = UNET["sd-img2img"]
    pipe, seen = case.pipe(), betas(monkeypatch)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    with emag.guide(pipe, EMAG()):
        case.run(pipe, (8,), num_inference_steps=12, strength=0.5)
    assert set(seen) == {BETA ** (250 / 12)}


def test_two_networks_have_one_schedule(monkeypatch):
    case = WAN["wan-experts"]
    pipe, seen = case.pipe(), betas(monkeypatch)
    with emag.guide(pipe, EMAG(layers=(1, 2))):
        case.run(pipe, num_inference_steps=8)
    assert seen == [BETA ** (250 / 8)] * 4  # two blocks in each


def test_the_users_own_timesteps_are_the_schedule(monkeypatch):
    seen, pipe = betas(monkeypatch), CASES["pixart"].pipe()
    pipe.scheduler = diffusers.DDPMScheduler()
    with emag.guide(pipe, EMAG(layers=(1, 2))):
        CASES["pixart"].run(pipe, timesteps=[900, 700, 500, 300, 100])
    assert set(seen) == {BETA ** (250 / 5)}


# two updates a step


def test_two_updates_of_a_step_share_its_decay_where_the_span_is_meant():
    both = Compat(update_from="cond+uncond")
    for beta_time, once, twice in (("step", BETA, BETA), ("equal-time", BETA ** (250 / 28), BETA ** (125 / 28))):
        assert EMAG(layers=(1,), beta_time=beta_time).perturbation.decay(28) == pytest.approx(once)
        assert EMAG(layers=(1,), beta_time=beta_time, compat=both).perturbation.decay(28) == pytest.approx(twice)


def test_two_updates_a_step_in_a_run(monkeypatch):
    """E after a run is the closed form over both rows' maps, each with half a step's decay."""
    lives, take = {1: [], 2: []}, Tracker._observe
    last = {}

    def observing(self, block, call):
        lives[block].append(call.image_queries().double())
        take(self, block, call)
        last[block] = self.averages[block].value.double().clone()

    monkeypatch.setattr(Tracker, "_observe", observing)
    pipe = CASES["dit"].pipe()
    with emag.guide(pipe, EMAG(layers=(1, 2), compat=Compat(update_from="cond+uncond"))):
        CASES["dit"].run(pipe)
    for block, average in last.items():
        assert len(lives[block]) == 16
        close(average, averages(lives[block], BETA ** (250 / 8 / 2))[-1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("rule", "steps", "weights"), [
    (emag.EMAG(1.5), 28, (0.941, 0.767)), (emag.EMAG(1.5, beta_time="equal-time"), 28, (0.898**5, 0.898**22)),
    (emag.EMAG(3, "map", window=Window.index(150, 50, 50), compat="dit-official"), 250, (0.295, 0.088))])
def test_the_weight_of_the_first_map_is_told_as_it_is(rule, steps, weights):
    """The numbers of the two published schedules; on DiT two updates a step."""
    [branch] = forecast("tiny", (rule,), steps)["weak"]
    assert branch["first_weight"] == pytest.approx(weights, abs=6e-4 if rule.beta_time == "step" else 2e-3)
