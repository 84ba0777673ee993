"""U-Nets and their pipelines: blocks of several sizes, in three groups, and schedulers with noise beside the data."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPAGPipeline, StableDiffusionXLPAGPipeline

import emag
from emag.engine.reading import read_network
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from emag.testing.small_unet import MORE, sd, sd_call, sdxl, sdxl_call
from separate import rows_evaluated, size_of
from spy import attribute, changes, network_outputs, scheduler_steps, snapshot
from unet import BOTH, EMAG, run_under

pytestmark = pytest.mark.sampled(2)

ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if c.uncond], ids=[n for n in MORE if n != "lcm"])


# nothing stays; at the planned cost


@ALL
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in ((), (EMAG(1.0),)):
        assert torch.equal(run_under(case, pipe, *rules)[0], plain)
        assert changes(before, snapshot(pipe)) == []
    run_under(case, pipe, EMAG())
    assert changes(before, snapshot(pipe), own=False) == []


@ALL
def test_emag_acts_as_planned(case):
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(SimpleNamespace(transformer=pipe.unet))
    made, run = run_under(case, pipe, EMAG())
    assert not torch.allclose(made, plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2
    assert run.stats.effect > 1e-3 and sum(effect is not None for effect in run.stats.effects) >= 3


@BOTH
@pytest.mark.parametrize("variant", ["query", "map"])
def test_candidates_may_have_several_sizes(name, variant):
    case = MORE[name]
    layers = (0, *read_network(case.pipe().unet).middle)
    _, run = run_under(case, case.pipe(), EMAG(layers=layers, variant=variant))
    picked = {block for row in run.stats.picks if row for block in row}
    assert picked <= set(layers) and run.stats.evaluations == run.stats.planned


# a resumed pass: what is skipped hands on what the clean pass had there, which the way up reads too


BLOCKS = [pytest.param(name, at, id=f"{name}-{at}") for name, depth in (("sd", 4), ("sdxl", 8)) for at in range(depth)] + [
    pytest.param(name, 2, id=f"{name}-2") for name in ("sd-control", "sd-adapter", "sd-inpaint", "lcm")]


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_resumed_weak_pass_equals_the_full_one(name, block):
    case, made = MORE[name], []
    pipe = case.pipe()
    for resume in (True, False):
        with network_outputs(pipe) as seen:
            _, run = run_under(case, pipe, EMAG(layers=(block,), compat=Compat(resume=resume)), num_inference_steps=5)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert made[1][1] - made[0][1] == passes * block and passes


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_resumed_pass_without_a_block_is_the_network_with_that_block_doing_nothing(name, block):
    case, seen = MORE[name], []
    pipe = case.pipe()
    original, network = pipe.unet.forward, read_network(pipe.unet)

    def forward(*args, **kwargs):
        added = kwargs.get("down_intrablock_additional_residuals")
        copied = kwargs if added is None else {**kwargs, "down_intrablock_additional_residuals": list(added)}
        answer = original(*args, **kwargs)
        seen.append((args, copied, answer[0].clone()))
        return answer

    with attribute(pipe.unet, "forward", forward):
        run_under(case, pipe, C["slg"](2.0, layers=(block,)), num_inference_steps=3)
    assert len(seen) == (4 if name == "sd-inpaint" else 6)
    with attribute(network.blocks[block].module, "forward", lambda hidden_states, *args, **more: hidden_states):
        for (args, kwargs, clean), (others, _, got) in zip(seen[::2], seen[1::2], strict=True):
            rows = slice(len(clean) - len(got), None)
            assert len(others) == len(args) and size_of(got - clean[rows]) > 1e-3
            expected = original(*args, **kwargs)[0][rows]
            assert size_of(got - expected) < 2e-4 * size_of(expected)


def test_residuals_of_an_adapter_are_there_in_every_pass():
    """The network takes them out of the list it is given."""
    case, counts = MORE["sd-adapter"], []
    pipe = case.pipe()
    original = pipe.unet.forward

    def forward(*args, **kwargs):
        counts.append(len(kwargs["down_intrablock_additional_residuals"]))
        return original(*args, **kwargs)

    with attribute(pipe.unet, "forward", forward):
        run_under(case, pipe, C["pag"](2.0), num_inference_steps=3)
        run_under(case, pipe, C["pag"](2.0), num_inference_steps=3, guidance_scale=1.0)
    assert counts == [2] * 12


# batches


@ALL
def test_an_image_is_the_same_alone(case):
    made = [run_under(case, case.pipe(), EMAG(), C["pag"](1.5), seeds=seeds)[0] for seeds in ((8, 9), (9,))]
    assert size_of(made[0][1:] - made[1]) < 3e-4 * max(1.0, float(size_of(made[1])))


# what the scheduler gets


@WITH_UNCOND
def test_the_scheduler_gets_exactly_our_cfg(case):
    pipe = case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given:
        _, run = run_under(case, pipe, EMAG(), emag.CFG(3.0), guidance_scale=7.0)
    for effect, got in zip(run.stats.effects, given, strict=True):
        (uncond, cond), weak = raw.pop(0).chunk(2), raw.pop(0) if effect is not None else None
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, pred + 2.0 * (pred - uncond))
    assert raw == []


@WITH_UNCOND
def test_our_cfg_is_the_hosts_own(case):
    pipe = case.pipe()
    own, off = (case.run(pipe, guidance_scale=scale) for scale in (3.0, 1.0))
    ours, one = (run_under(case, pipe, emag.CFG(scale), guidance_scale=7.0)[0] for scale in (3.0, 1.0))
    assert size_of(ours - own) < 3e-4 * size_of(own) and size_of(ours - off) > 1e-2
    assert size_of(one - off) < 3e-4 * size_of(off)


@BOTH
def test_the_rescale_of_a_host_changes_nothing_where_we_combine(name):
    case = MORE[name]
    made = [run_under(case, case.pipe(), emag.CFG(4.0), guidance_rescale=phi)[0] for phi in (0.0, 0.7)]
    assert size_of(made[0] - made[1]) < 1e-4 * size_of(made[0])
    assert size_of(case.run(case.pipe(), guidance_rescale=0.7) - made[0]) > 1e-2


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize(("make", "call", "theirs"), [(sd, sd_call, StableDiffusionPAGPipeline),
                                                      (sdxl, sdxl_call, StableDiffusionXLPAGPipeline)], ids=["sd", "sdxl"])
def test_pag_is_that_of_diffusers(make, call, theirs, guidance):
    pipe = make()
    other = theirs.from_pipe(pipe, pag_applied_layers="mid")
    other.set_progress_bar_config(disable=True)
    rules = (emag.CFG(guidance), C["pag"](4.0)) if guidance > 1 else (C["pag"](4.0),)
    with scheduler_steps(other) as expected:
        other(**call(guidance_scale=guidance), pag_scale=3.0)
    with scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        pipe(**call(guidance_scale=guidance))
    assert run.resolved[-1].layers == read_network(pipe.unet).middle and len(given) == len(expected) == 8
    for made, wanted in zip(given, expected, strict=True):
        assert size_of(made - wanted) < 3e-4 * size_of(wanted)
