"""Video networks and their pipelines: the laws of images, on latents with frames, packed or with the frames first."""

import pytest
import torch

import emag
from cases import EMAG
from emag.engine.reading import read_network
from emag.hosts.lookup import host_of
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from spy import changes, network_outputs
from video import ALL, LAYERS, MORE, STEPS, acts_and_costs, close, distance, made, whole

# nothing, or neutral


@ALL
def test_no_rule_and_neutral_rules_change_no_bit(case):
    plain = case.run(case.pipe())
    for rules in ((), (EMAG(1.0), METHODS["pag"](1.0, LAYERS))):
        assert torch.equal(made(case, *rules)[0], plain)


@ALL
def test_the_clean_pass_is_bit_identical(case):
    """Up to the first weak pass latents agree, so the network's own clean answers must agree bit for bit, all rows."""
    pipe = case.pipe()
    calls = 2 if case.uncond and not host_of(pipe).doubled else 1
    with network_outputs(pipe) as plain:
        case.run(pipe)
    with network_outputs(pipe) as guided, emag.guide(pipe, EMAG(window=emag.Window.index(4, 2, 1))):
        case.run(pipe)
    same = 2 * calls + 1
    assert all(torch.equal(a, b) for a, b in zip(plain[:same], guided[:same]))
    assert len(guided) > len(plain)


@ALL
def test_a_pipeline_is_left_as_it_was(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), whole(pipe)
    with emag.guide(pipe, EMAG()):
        case.run(pipe)
    assert changes(before, whole(pipe), own=False) == []

    class Stop(Exception):
        pass

    def stop(*args):
        raise Stop

    with pytest.raises(Stop), emag.guide(pipe, EMAG()):
        case.run(pipe, callback_on_step_end=stop)
    assert changes(before, whole(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


# EMAG


@ALL
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_acts_and_costs_what_is_planned(case, variant):
    acts_and_costs(case, variant, STEPS * case.depth(case.pipe()))


@pytest.mark.parametrize(("case", "block"), [pytest.param(case, k, id=f"{case.name}-{k}") for case in MORE.values()
                                             for k in range(4)])
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    answers, found = [], []
    for resume in (True, False):
        pipe = case.pipe()
        assert read_network(pipe.transformer).depth == 4
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe)
        answers.append(seen)
        found.append(run.stats.evaluations)
    for resumed, full in zip(*answers, strict=True):
        close(resumed, full)
    assert found[1] - found[0] == block * sum(effect is not None for effect in run.stats.effects)


@ALL
@pytest.mark.parametrize("rules", [(EMAG(), METHODS["seg"](1.5, LAYERS, 1.0)),
                                   (emag.CADS(0.2, 0.3, 0.9, 0.7), EMAG(variant="map", jitter=0.3))], ids=["query", "map"])
def test_a_video_does_not_depend_on_its_batch_mates(case, rules):
    together, _ = made(case, *rules)
    alone = torch.cat([made(case, *rules, seeds=(seed,))[0] for seed in (8, 9)])
    assert distance(together, alone) < 2e-4
