"""Pipelines that start from an image, and networks whose text has an attention or a stream of its own kind."""

import pytest
import torch

import emag
from emag.engine.reading import read_network
from emag.methods.emag.compat import Compat
from emag.methods.null.ag import AG
from emag.methods.weak.slg import SLG
from emag.testing.small_separate import FURTHER, MORE
from separate import EMAG, KINDS, WITH_UNCOND, in_dtype, rows_evaluated, size_of
from spy import attribute, changes, network_outputs, scheduler_steps, snapshot

ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
MAPS = [case for case in MORE.values() if case.name != "sana"]
WITHOUT_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if not c.uncond],
                                         ids=[c.name for c in MORE.values() if not c.uncond])


def weak_rule(case, **more):
    """EMAG, or skipped blocks where attention has no map."""
    return SLG(1.5, layers=(1,)) if case.name == "sana" else EMAG(**more)


# 1, 5: nothing stays


@ALL
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in ((), (emag.EMAG(1.0, layers=(1,)),)):
        with emag.guide(pipe, *rules):
            assert torch.equal(case.run(pipe), plain)
        assert changes(before, snapshot(pipe)) == []


@KINDS
def test_an_exception_leaves_nothing(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    counted = []

    def fail(*args):
        counted.append(1)
        if len(counted) == 6:
            raise KeyboardInterrupt

    handle = read_network(pipe.transformer).blocks[-1].module.register_forward_pre_hook(fail)
    with emag.guide(pipe, weak_rule(case)):
        with pytest.raises(KeyboardInterrupt):
            case.run(pipe)
        handle.remove()
        assert not torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


# 2: EMAG acts, at the planned cost


@pytest.mark.parametrize("case", [*MAPS, *FURTHER.values()], ids=[case.name for case in (*MAPS, *FURTHER.values())])
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_acts_as_planned(case, variant):
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        assert not torch.allclose(case.run(pipe), plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2
    assert run.stats.effect > 1e-3
    assert sum(effect is not None for effect in run.stats.effects) >= 3


# 3: a resumed pass equals a full one


def blocks():
    """Every block of every network; one where only the pipeline is another."""
    depths = {"hunyuan": 6, "auraflow": 4, "sd3.5": 4, "sd3-control": 4, "flux-control": 5}
    return [pytest.param(case, block, id=f"{case.name}-{block}") for case in MAPS
            for block in range(depths.get(case.name, 0))] + [
        pytest.param(case, 2, id=f"{case.name}-2") for case in MAPS if case.name not in depths]


@pytest.mark.parametrize(("case", "block"), blocks())
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    pipe, made = case.pipe(), []
    for resume in (True, False):
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert made[1][1] - made[0][1] == passes * block > (-1 if block == 0 else 0)


@pytest.mark.parametrize(("name", "block"), [*(("hunyuan", i) for i in range(6)), *(("sana", i) for i in range(4))])
def test_a_resumed_pass_without_a_block_is_the_network_with_that_block_doing_nothing(name, block):
    """HunyuanDiT's long skips included: later blocks read what earlier ones returned."""
    case, seen = MORE[name], []
    pipe = case.pipe()
    original, network = pipe.transformer.forward, read_network(pipe.transformer)

    def forward(*args, **kwargs):
        answer = original(*args, **kwargs)
        seen.append((args, kwargs, answer[0].clone()))
        return answer

    with attribute(pipe.transformer, "forward", forward), emag.guide(pipe, SLG(2.0, layers=(block,))) as run:
        case.run(pipe, (8,), num_inference_steps=3)
    weak = [one for one in seen if len(one[2]) == 1]
    assert len(weak) == 3 and run.stats.evaluations == 3 * (3 * network.depth - block - 1)
    with attribute(network.blocks[block].module, "forward", lambda hidden_states, *args, **more: hidden_states):
        for args, kwargs, got in weak:
            expected = original(*args, **kwargs)[0]
            assert size_of(got - expected) < 2e-4 * size_of(expected)


# 4: an image alone


@ALL
def test_an_image_is_the_same_alone(case):
    made, dtype = [], torch.float64 if case.name == "sana" else torch.float32  # linear attention divides by small sums
    for seeds in ((8, 9), (9,)):
        pipe = case.pipe().to(dtype)
        with emag.guide(pipe, weak_rule(case)):
            made.append(pipe(**in_dtype(case.call(seeds), dtype)).images)
    assert size_of(made[0][1:] - made[1]) < 2e-4 * max(1.0, float(size_of(made[1])))


# 6: what the scheduler gets


def channels_of(case):
    return 4 if case.name == "hunyuan" else None


@WITH_UNCOND
def test_the_scheduler_gets_exactly_our_cfg(case):
    pipe, rules = case.pipe(), (weak_rule(case), emag.CFG(3.0))
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **{case.scale: 7.0})
    raw = [out[:, :channels_of(case)] for out in raw]
    for effect, got in zip(run.stats.effects, given, strict=True):
        if run.host.doubled:
            (uncond, cond), weak = raw.pop(0).chunk(2), raw.pop(0) if effect is not None else None
        else:
            cond, weak, uncond = raw.pop(0), raw.pop(0) if effect is not None else None, raw.pop(0)
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got[:, :channels_of(case)], pred + 2.0 * (pred - uncond))
    assert raw == []


@WITH_UNCOND
def test_our_cfg_is_the_hosts_own(case):
    pipe = case.pipe()
    own, off = (case.run(pipe, **{case.scale: scale}) for scale in (3.0, 1.0))
    with emag.guide(pipe, emag.CFG(3.0)):
        ours = case.run(pipe, **{case.scale: 7.0})
    with emag.guide(pipe, emag.CFG(1.0)):
        one = case.run(pipe)
    assert size_of(ours - own) < 3e-4 * size_of(own) and size_of(ours - off) > 1e-2
    if case.name == "sd3-control":  # the ControlNet's own batch is doubled or not
        assert size_of(one - off) < 1e-4 * size_of(off)
    else:
        assert torch.equal(one, off)


@WITHOUT_UNCOND
def test_a_combiner_without_unconditional_rows_is_refused(case):
    pipe, calls = case.pipe(), []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    for rule in (emag.CFG(3.0), AG(0.9)):
        with pytest.raises(emag.BadValue, match="unconditional"), emag.guide(pipe, rule):
            case.run(pipe)
    assert calls == []
