"""Pipelines that edit pictures, start from one or follow one: the laws of `test_backbones_joint`, and those of reference
images, whose tokens stand behind those of the image in the making and stay as they are."""

import pytest
import torch

import emag
from editing import EMAG, KINDS, MORE, SCALE, cases, cast, far
from emag.hosts.pipeline import _bind
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from separate import rows_evaluated, size_of
from spy import changes, network_outputs, scheduler_steps, snapshot

pytestmark = pytest.mark.sampled(2)


def weak_rule(case, **more):
    """EMAG, or skipped blocks where attention has no map."""
    return C["slg"](1.5, layers=(1,)) if case.name == "sana-control" else EMAG(**more)


# the laws of every pipeline


def of_network(names):
    """Without what an encoder keeps of its latest call."""
    return [name for name in names if not name.startswith("vae.")]


@cases()
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    with emag.guide(pipe, emag.EMAG(1.0, layers=(1,)), emag.CADS(0.3, tau1=1.0, tau2=1.0)):
        assert torch.equal(case.run(pipe), plain)
    with emag.guide(pipe, weak_rule(case)):
        assert not torch.equal(case.run(pipe), plain)
    assert of_network(changes(before, snapshot(pipe), own=False)) == []
    assert torch.equal(case.run(pipe), plain) and of_network(changes(before, snapshot(pipe))) == []


@cases()
def test_a_weak_branch_acts_as_planned(case):
    """Late starts count their own steps: of eight six are left."""
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(pipe)
    with emag.guide(pipe, weak_rule(case)) as run:
        made = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2 > run.stats.clean
    assert run.stats.effect > 1e-3 and far(made, plain) > 1e-3
    asked = run.host.steps(_bind(type(pipe).__call__, pipe, (), case.call()))
    assert run.stats.steps == asked == 6 and sum(effect is not None for effect in run.stats.effects) >= 3


@cases()
def test_an_image_is_the_same_alone(case):
    made, dtype = [], torch.float64 if case.name == "sana-control" else torch.float32
    for seeds in ((8, 9), (9,)):
        pipe = case.pipe().to(dtype)
        with emag.guide(pipe, weak_rule(case)):
            made.append(cast(case, dtype).run(pipe, seeds))
    assert len(made[0]) == 2 and size_of(made[0][1:] - made[1]) < 5e-4 * max(1.0, float(size_of(made[1])))


def blocks():
    """Every block where the sequence, or what is added to it, is another; one where only the pipeline is."""
    depths = {"qwen-edit-2511": 4, "kontext": 5, "klein-edit": 5, "longcat-edit": 5, "qwen-control": 4, "hunyuan-control": 6}
    return [pytest.param(MORE[name], block, id=f"{name}-{block}") for name, depth in depths.items() for block in range(depth)
            ] + [pytest.param(case, 2, id=f"{case.name}-2") for case in MORE.values()
                 if case.name not in (*depths, "sana-control")]


@pytest.mark.parametrize(("case", "block"), blocks())
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    pipe, made = case.pipe(), []
    for resume in (True, False):
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe, num_inference_steps=4)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert passes and made[1][1] - made[0][1] == block * passes


# what the scheduler gets


def traced(case, pipe, *rules, **call):
    """Per step the conditional, weak and unconditional predictions, None where not made, and what the scheduler got."""
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    steps, null = [], run.stats.clean > run.stats.steps * run.stats.depth
    for effect, got in zip(run.stats.effects, given, strict=True):
        got = got[:, :4] if case.name == "hunyuan-control" else got
        clean, weak = (raw.pop(0)[:, :got.shape[1]] if made else None for made in (True, effect is not None))
        cond, uncond = (clean, raw.pop(0)[:, :got.shape[1]] if null else None) if not run.host.doubled else (
            (clean.chunk(2)[1], clean.chunk(2)[0]) if null else (clean, None))
        steps.append((cond, weak, uncond, got))
    assert raw == [] and sum(weak is not None for _, weak, _, _ in steps) > 2
    return steps


@cases(uncond=True)
def test_the_scheduler_gets_exactly_our_cfg(case):
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), emag.CFG(3.0), **{case.scale: 33.0}):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        torch.testing.assert_close(got, null + 3.0 * (pred - null), atol=1e-5, rtol=1e-5)


def by_host(case, pred, null):
    """How the pipeline itself combines."""
    made = null + SCALE * (pred - null)
    if not case.name.startswith("qwen") or case.name == "qwen-layered":
        return made
    return made * (pred.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))


@cases(uncond=True)
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), **{case.scale: SCALE}):
        assert torch.equal(got, by_host(case, cond if weak is None else cond + 0.5 * (cond - weak), null))


@cases((*KINDS, "kontext", "flux2-edit", "klein-kv", "qwen-control", "hunyuan-control", "chroma-inpaint"))
def test_without_unconditional_rows_the_scheduler_gets_the_moved_prediction(case):
    off = {case.scale: 1.0} if case.uncond else {}
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), **off):
        assert null is None and torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


@cases(uncond=True)
def test_cfg_at_1_is_the_pipeline_without_guidance(case):
    pipe = case.pipe()
    off = case.run(pipe, **{case.scale: 1.0})
    with emag.guide(pipe, emag.CFG(1.0)) as run:
        one = case.run(pipe)
    doubled = case.name in ("hunyuan-control", "sana-control")  # the ControlNet's own batch is doubled or not
    assert far(one, off) < 1e-5 if doubled else torch.equal(one, off)
    assert run.stats.evaluations == run.stats.planned == run.stats.steps * run.stats.depth


