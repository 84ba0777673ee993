"""Wan 2.2: a run that another network finishes. Its steps are one run's, its two networks have one guidance."""

from types import SimpleNamespace

import pytest
import torch

import emag
from cases import EMAG
from emag.engine.reading import read_network
from emag.lab.doctor.calibrate import Probe
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.testing.small_video import wan, wan_network
from emag.testing.small_wan import MORE, experts
from spy import changes, network_outputs, scheduler_steps, snapshot
from two_experts import CASE, STEPS, SWITCH, made
from video import NO_VAE, Counted, close, distance, whole

ALL = emag.Window.index(7, 1, 0)


def alone(network):
    return SimpleNamespace(transformer=network)


def traced(*rules, **call):
    """A run, (conditional, unconditional, weak) of each step from either network, and what the scheduler was handed."""
    pipe, steps = experts(), []
    with network_outputs(alone(pipe.transformer)) as raw, network_outputs(alone(pipe.transformer_2)) as later:
        with scheduler_steps(pipe) as given:
            _, run = made(*rules, pipe=pipe, **call)
    raw = raw + later
    for effect in run.stats.effects:
        cond = raw.pop(0)
        weak = raw.pop(0) if effect is not None else None
        steps.append((cond, raw.pop(0), weak))
    assert raw == [] and len(given) == STEPS
    return run, steps, given


def tokens_tracked(rule, **call):
    """The reach of `rule` at each step that evaluates it, where nothing is changed: x_t is the plain run's."""
    probe = Probe(rule)
    _, run = made(probe, **call)
    evaluated = [step for step, effect in enumerate(run.stats.effects) if effect is not None]
    return dict(zip(evaluated, probe.measured, strict=True))


# nothing, or neutral; undone


def test_no_rule_and_neutral_rules_change_no_bit():
    plain = CASE.run(experts())
    for rules in ((), (EMAG(1.0), METHODS["pag"](1.0, (1, 2)))):
        assert torch.equal(made(*rules)[0], plain)


@pytest.mark.parametrize("stop", [None, 1, SWITCH + 1])
def test_both_networks_are_left_as_they_were(stop):
    pipe = experts()
    second = SimpleNamespace(scheduler=pipe.scheduler, transformer=pipe.transformer_2, vae=NO_VAE)
    plain, before = CASE.run(pipe), (whole(pipe), snapshot(second))

    class Stop(Exception):
        pass

    def callback(pipe, step, timestep, values):
        if step == stop:
            raise Stop
        return values

    rules = EMAG(), METHODS["slg"](1.5, (2,)), METHODS["tsg"](1.5), emag.CADS(0.2, 0.3, 0.9, 0.7)
    try:
        made(*rules, pipe=pipe, callback_on_step_end=callback)
    except Stop:
        assert stop is not None
    assert changes(before[0], whole(pipe), own=False) == []
    assert changes(before[1], snapshot(second), own=False) == []
    assert torch.equal(CASE.run(pipe), plain)


def test_both_networks_serve_one_run_at_a_time():
    pipe, busy = experts(), []
    for network in (pipe.transformer, pipe.transformer_2):
        other = wan()
        other.transformer = network

        def callback(own, step, timestep, values, other=other):
            with pytest.raises(emag.Busy, match="WanPipeline"):
                made(EMAG(), pipe=other)
            busy.append(step)
            return values

        made(EMAG(), pipe=pipe, callback_on_step_end=callback)
        made(EMAG(), pipe=other)
    assert len(busy) == 2 * STEPS


# counts, and what is tracked


@pytest.mark.parametrize("rules", [
    (EMAG(window=ALL),), (EMAG(window=ALL, variant="map"), METHODS["pag"](1.3, (1, 2)), emag.CFG(3.0)),
    (METHODS["slg"](1.5, (2,)), METHODS["tsg"](1.5)),
    (EMAG(window=ALL, compat=Compat(accumulate_in="perturbed", stat_lag=1, every_step=True)),)],
    ids=["emag", "more", "skipped", "perturbed"])
def test_evaluations_are_those_planned_in_both(rules):
    pipe = experts()
    first, second = Counted(pipe), Counted(alone(pipe.transformer_2))
    _, run = made(*rules, pipe=pipe)
    assert run.stats.evaluations == run.stats.planned == first.per_image(2) + second.per_image(2)
    assert run.stats.clean == STEPS * 4 * 2 and second.per_image(2) > (STEPS - SWITCH) * 4 * 2


def test_a_network_that_took_over_only_tracks_in_its_first_step():
    _, run = made(EMAG(window=ALL))
    assert [effect is not None for effect in run.stats.effects] == [step not in (0, SWITCH) for step in range(STEPS)]
    assert [pick is not None for pick in run.stats.picks] == [step not in (0, SWITCH) for step in range(STEPS)]


@pytest.mark.parametrize("variant", ["query", "map"])
def test_the_average_starts_afresh_with_the_second_network(variant):
    """What the second one's weak passes see is what they see in a window that begins with it."""
    found = tokens_tracked(EMAG(window=ALL, variant=variant))
    after = tokens_tracked(EMAG(window=emag.Window.index(STEPS - 1 - SWITCH, 1, 0), variant=variant))
    assert list(after) == list(range(SWITCH + 1, STEPS))
    for step, reach in after.items():
        assert torch.equal(found[step], reach)
    before = tokens_tracked(EMAG(window=emag.Window.index(STEPS - 1, 1, STEPS - SWITCH), variant=variant))
    assert all(torch.equal(found[step], reach) for step, reach in before.items())


def test_a_window_that_leaves_the_step_of_the_switch_alone_has_no_effect():
    with pytest.raises(emag.NoEffect, match="never evaluated"):
        made(EMAG(window=emag.Window.index(STEPS - SWITCH, 1, STEPS - 1 - SWITCH)))


def test_layers_are_those_of_both_networks():
    """A block that SLG skips is skipped in either network."""
    _, steps, _ = traced(METHODS["slg"](1.5, (1,)))
    assert all(weak is not None and not torch.allclose(weak, cond) for cond, _, weak in steps)


@pytest.mark.parametrize("rules", [(EMAG(window=ALL), METHODS["seg"](1.5, (1, 2), 1.0)),
                                   (emag.CADS(0.2, 0.3, 0.9, 0.7), EMAG(window=ALL, variant="map", jitter=0.3))],
                         ids=["query", "map"])
def test_a_video_does_not_depend_on_its_batch_mates(rules):
    together, _ = made(*rules)
    for row, seed in enumerate((8, 9)):
        assert distance(together[row:row + 1], made(*rules, seeds=(seed,))[0]) < 2e-4


def test_a_second_run_starts_with_the_first_network_again():
    pipe = experts()
    with emag.guide(pipe, EMAG(window=ALL)) as run:
        first, effects = CASE.run(pipe), None
        effects = run.stats.effects
        assert torch.equal(CASE.run(pipe), first) and run.stats.effects == effects


def test_a_resumed_weak_pass_equals_the_full_one_in_both():
    _, resumed, _ = traced(EMAG(window=ALL, layers=(2,)))
    _, full, _ = traced(EMAG(window=ALL, layers=(2,), compat=Compat(resume=False)))
    for one, other in zip(resumed, full, strict=True):
        assert (one[2] is None) == (other[2] is None)
        close(one[0], other[0])
        if one[2] is not None:
            close(one[2], other[2])


# scales


@pytest.mark.parametrize("second", [None, 2.0])
def test_each_network_keeps_its_own_scale_of_the_host(second):
    _, steps, given = traced(EMAG(1.5, window=ALL), guidance_scale=4.0, guidance_scale_2=second)
    for index, ((cond, uncond, weak), got) in enumerate(zip(steps, given, strict=True)):
        scale = 4.0 if index < SWITCH or second is None else second
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, uncond + scale * (pred - uncond))


def test_our_rule_combines_in_both():
    _, steps, given = traced(emag.CFG(3.0), guidance_scale=4.0, guidance_scale_2=2.0)
    for (cond, uncond, _), got in zip(steps, given, strict=True):
        assert torch.equal(got, cond + 2.0 * (cond - uncond))


# one of the two


def single(missing):
    pipe = experts(boundary_ratio=1.1 if missing == "transformer" else 0.0)
    setattr(pipe, missing, None)
    return pipe


@pytest.mark.parametrize("missing", ["transformer", "transformer_2"])
def test_either_network_may_be_missing(missing):
    pipe, other = single(missing), wan()
    other.transformer = pipe.transformer_2 if missing == "transformer" else pipe.transformer
    found, run = made(EMAG(window=ALL), emag.CFG(3.0), pipe=pipe)
    expected, plain = made(EMAG(window=ALL), emag.CFG(3.0), pipe=other)
    assert torch.equal(found, expected) and run.stats.effects == plain.stats.effects
    assert run.stats.evaluations == run.stats.planned == plain.stats.evaluations


def test_without_a_boundary_the_second_is_never_called():
    pipe = wan(transformer_2=wan_network(seed=100))
    found, run = made(EMAG(window=ALL), pipe=pipe)
    assert torch.equal(found, made(EMAG(window=ALL), pipe=wan())[0]) and run.stats.evaluations == run.stats.planned


def test_a_pipeline_without_any_network_is_refused():
    pipe = single("transformer")
    pipe.transformer_2 = None
    with pytest.raises(emag.Unsupported, match="has no transformer"), emag.guide(pipe, EMAG()):
        pass


def test_networks_of_other_depths_are_refused():
    pipe = experts()
    pipe.transformer_2 = wan_network(layers=3)
    with pytest.raises(emag.Unsupported, match="4 and 3 blocks"):
        made(EMAG(), pipe=pipe)


def test_a_cache_in_the_second_network_is_refused():
    from diffusers import FirstBlockCacheConfig

    pipe = experts()
    pipe.transformer_2.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(emag.Unsupported, match="cache"):
        made(EMAG(), pipe=pipe)


def test_a_picture_may_start_it():
    """Wan 2.2 image to video: two networks as well, and the picture in further channels of both."""
    case = MORE["wan-image-2"]
    second = wan_network(seed=100, in_channels=12)
    pipe = case.pipe(transformer_2=second, boundary_ratio=0.7)
    plain, counted = case.run(pipe), Counted(alone(second))
    assert read_network(second).depth == 4
    with emag.guide(pipe, EMAG(window=ALL)) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned and counted.per_image(2) > 0 and not torch.equal(out, plain)
    assert run.stats.effects[SWITCH] is None and run.stats.effects[SWITCH + 1] is not None
