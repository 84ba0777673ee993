"""Joint models beyond the ones that every test runs over: Qwen-Image, Chroma, FLUX.2 and CogView4, on small networks."""

from types import SimpleNamespace

import pytest
import torch

import emag
from emag.engine.network import Network
from emag.maths.layout import pack, unpack
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from joint import EMAG, SCALE, attention_of, cases, close, far
from spy import Counter, blocks_of, changes, network_outputs, scheduler_steps, snapshot
from tiny import noise

# 1: nothing stays behind


NEUTRAL = {"no rule": (), "scale 1": (EMAG(1.0),), "strength 0": (EMAG(strength=0.0),),
           "cads never": (emag.CADS(0.3, tau1=1.0, tau2=1.0),)}


@cases()
def test_neutral_rules_change_no_bit(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in NEUTRAL.values():
        with emag.guide(pipe, *rules):
            assert torch.equal(case.run(pipe), plain)
            assert changes(before, snapshot(pipe)) == ["class"]
    assert changes(before, snapshot(pipe)) == []


@cases()
def test_leaving_the_block_leaves_nothing(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    rules = (emag.CADS(0.3, tau1=0.3, tau2=0.9, psi=0.5), EMAG(), C["slg"](1.3, layers=(2,)))
    with emag.guide(pipe, *rules, *((emag.APG(3.0, norm_threshold=2.5, momentum=-0.5),) if case.uncond else ())):
        assert not torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


@cases()
@pytest.mark.parametrize("calls", [1, 8])
def test_an_exception_leaves_nothing(case, calls):
    pipe = case.pipe()
    plain, before, counted = case.run(pipe), snapshot(pipe), []

    def fail(*args):
        counted.append(1)
        if len(counted) == calls:
            raise KeyboardInterrupt("in flight")

    handle = blocks_of(pipe)[-1].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt, match="in flight"), emag.guide(pipe, EMAG()):
        case.run(pipe)
    handle.remove()
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


# 2, 3: weak passes


@cases()
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_runs_as_planned_and_acts(case, variant):
    pipe = case.pipe()
    plain, counter = case.run(pipe), Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        made = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counter.blocks.values()) / 2 > run.stats.clean
    assert run.stats.effect > 0.01 and far(made, plain) > 1e-3
    assert {pick for row in run.stats.picks if row for pick in row} <= {1, 3}


@cases()
@pytest.mark.parametrize("variant", ["query", "map"])
def test_a_resumed_pass_is_the_full_one(case, variant):
    pipe = case.pipe().to(torch.float64)
    call = {name: value.double() for name, value in case.call().items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()}
    for block in range(case.depth(pipe)):
        made, costs = [], []
        for resume in (True, False):
            rule = EMAG(layers=(block,), variant=variant, compat=Compat(resume=resume))
            with emag.guide(pipe, rule) as run:
                made.append(case.run(pipe, **call))
            costs.append(run.stats.evaluations)
        close(*made, atol=1e-9, rtol=1e-9)
        assert costs[1] - costs[0] == block * sum(effect is not None for effect in run.stats.effects)


# 4, 8: rows, sizes, precision


@cases()
def test_an_image_alone_is_the_one_in_a_batch(case):
    pipe = case.pipe()
    rules = (EMAG(), C["tpg"](1.5, layers=(case.depth(pipe) - 1,)))
    with emag.guide(pipe, *rules):
        both = case.run(pipe, (8, 9))
        for i, seed in enumerate((8, 9)):
            assert far(case.run(pipe, (seed,)), both[i:i + 1]) < 2e-4


@cases()
def test_sizes_that_are_not_square(case):
    pipe, size = case.pipe(), {"height": 16, "width": 48}
    plain = case.run(pipe, (8,), **size)
    with emag.guide(pipe, EMAG(), C["seg"](1.5, layers=(1,), sigma=1.0), C["sag"](1.5, layers=(2,), kernel=3)) as run:
        made = case.run(pipe, (8,), **size)
    assert run.stats.images == 1 and made.isfinite().all() and far(made, plain) > 1e-3


@cases()
def test_half_precision(case):
    pipe = case.pipe().to(torch.bfloat16)
    call = {name: value.bfloat16() for name, value in case.call().items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()}
    with emag.guide(pipe, EMAG(), EMAG(variant="map"), *((emag.CFG(3.0),) if case.uncond else ())) as run:
        assert case.run(pipe, **call).isfinite().all()
    assert run.stats.effect > 0


@cases("qwen", "chroma", "flux2", "klein", "longcat")
def test_sequences_of_patches_are_read_as_images(case):
    """`layout.unpack` at the grid that the network's arguments tell is what the pipeline does with its latents."""
    pipe, grids = case.pipe(), []
    original = Network.grid

    def grid(network, values):
        grids.append((original(network, values), network.image_tokens(values)))
        return grids[-1][0]

    with pytest.MonkeyPatch.context() as patch, emag.guide(pipe, EMAG()):
        patch.setattr(Network, "grid", grid)
        case.run(pipe, height=8, width=12)
    assert set(grids) == {((4, 6, 2), 24)}
    x = noise(3, 2, 24, pipe.transformer.config.in_channels)
    step = SimpleNamespace(grid=(4, 6, 2))
    assert torch.equal(unpack(x, step), unpacked(pipe, case.name, x)) and torch.equal(pack(unpack(x, step), step), x)


def unpacked(pipe, name, x):
    if name in ("qwen", "chroma", "longcat"):
        return pipe._unpack_latents(x, 8, 12, 1).reshape(2, -1, 8, 12)
    return pipe._unpatchify_latents(x.permute(0, 2, 1).reshape(2, 16, 4, 6))


# 5, 6: what the scheduler gets


def traced(case, pipe, *rules, **call):
    """Per step the conditional, weak and unconditional predictions, None where not made, and what the scheduler got."""
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    null = run.stats.clean > run.stats.steps * run.stats.depth
    steps = [(raw.pop(0), raw.pop(0) if effect is not None else None, raw.pop(0) if null else None)
             for effect in run.stats.effects]
    assert raw == [] and len(steps) == len(given)
    return [(*step, got) for step, got in zip(steps, given)]


def by_host(case, pred, null):
    """How the pipeline itself combines."""
    made = null + SCALE * (pred - null)
    if case.name == "longcat":
        return made * (pred.norm(dim=-1, keepdim=True) / (made.norm(dim=-1, keepdim=True) + 1e-8)).clamp(max=1.0)
    if case.name != "qwen":
        return made
    return made * (pred.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))


@cases(uncond=True)
@pytest.mark.parametrize("host_scale", [1.5, 33.0])
def test_the_scheduler_gets_exactly_our_cfg(case, host_scale):
    steps = traced(case, case.pipe(), EMAG(1.4), emag.CFG(3.0), **{case.scale: host_scale})
    for cond, weak, null, got in steps:
        pred = cond if weak is None else cond + (1.4 - 1) * (cond - weak)
        close(got, null + 3.0 * (pred - null), atol=1e-5, rtol=1e-5)
    assert sum(weak is not None for _, weak, _, _ in steps) > 2


@cases(uncond=True)
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    for cond, weak, null, got in traced(case, case.pipe(), EMAG(1.5), **{case.scale: SCALE}):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, by_host(case, pred, null))


@cases(uncond=True)
def test_cfg_at_1_is_the_pipeline_without_guidance(case):
    pipe = case.pipe()
    off = case.run(pipe, **{case.scale: 1.0})
    with emag.guide(pipe, emag.CFG(1.0)) as run:
        assert torch.equal(case.run(pipe), off)
    assert run.stats.evaluations == run.stats.planned == run.stats.steps * run.stats.depth


@cases()
def test_weak_rules_work_without_unconditional_rows(case):
    pipe = case.pipe()
    off = {case.scale: 1.0} if case.uncond else {}
    steps = traced(case, pipe, EMAG(1.5), **off)
    for cond, weak, null, got in steps:
        assert null is None and torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))
    assert sum(weak is not None for _, weak, _, _ in steps) > 2
