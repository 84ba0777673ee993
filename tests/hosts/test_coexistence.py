"""Guidance beside everything else people do to a pipeline: threads, LoRA, adapters, hooks, compile, offload."""

import threading

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import emag
from cases import ALL
from coexisting import EMAG, at_step, guided, in_thread, rules_for, sharing
from spy import changes, snapshot
from tiny import CASES, noise, sd3

# One run at a time per network


@ALL
def test_two_threads_with_two_pipelines(case):
    seeds = [(1, 2), (3,)]
    alone = [guided(case, case.pipe(), seeds=s)[0] for s in seeds]
    pipes, results, gate = [case.pipe(), case.pipe()], [[], []], threading.Barrier(2)

    def work(i):
        gate.wait()
        for _ in range(3):
            results[i].append(guided(case, pipes[i], seeds=seeds[i])[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(r) == 3 and all(torch.equal(x, a) for x in r) for r, a in zip(results, alone))


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "other thread"])
@pytest.mark.parametrize("second", ["guided", "plain"])
def test_a_network_in_use_refuses_others_and_is_not_disturbed(case, elsewhere, second):
    pipe, other = case.pipe(), case.pipe(seed=1)
    other.transformer = pipe.transformer
    plain, (expected, _) = case.run(pipe), guided(case, pipe)
    before, errors = snapshot(pipe), []

    def intrude():
        try:
            case.run(other) if second == "plain" else guided(case, other)
        except emag.EmagError as error:
            errors.append(error)

    with at_step(pipe, 4, in_thread(intrude) if elsewhere else intrude):
        out, stats = guided(case, pipe)
    assert torch.equal(out, expected)
    assert [type(e) for e in errors] == [emag.Busy] if second == "guided" or elsewhere else len(errors) == 1
    assert "already serves" in str(errors[0]) or "serves a guided run in another thread" in str(errors[0]) \
        or "out of turn" in str(errors[0])
    assert stats.evaluations == stats.planned
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain) and torch.equal(case.run(other), case.run(other))


def test_a_plain_call_on_a_network_in_use_ends_the_run_with_a_clear_error():
    case, pipe = CASES["sd3"], sd3()
    other, plain, before = sharing(pipe), case.run(pipe), snapshot(pipe)
    with pytest.raises(emag.EmagError, match="out of turn"), at_step(pipe, 3, lambda: case.run(other)):
        guided(case, pipe)
    pipe.scheduler.__dict__.pop("step", None)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


def test_another_batch_size_from_inside_a_run_is_refused():
    case, pipe = CASES["sd3"], sd3()
    expected, errors = guided(case, pipe)[0], []

    def intrude():
        time = pipe.scheduler.timesteps[3:4].expand(6)
        with pytest.raises(emag.EmagError, match="out of turn"):
            pipe.transformer(noise(0, 6, 4, 8, 8), noise(1, 6, 5, 12), noise(2, 6, 10), time)
        errors.append(1)

    with at_step(pipe, 3, intrude):
        assert torch.equal(guided(case, pipe)[0], expected)
    assert errors


def test_a_guided_pipeline_cannot_be_guided_again():
    pipe = sd3()
    with emag.guide(pipe, EMAG()) as run:
        with pytest.raises(emag.Busy, match="already inside"):
            emag.guide(pipe, emag.CFG(3.0)).__enter__()
        CASES["sd3"].run(pipe)
    assert run.stats.effect > 0 and type(pipe) is StableDiffusion3Pipeline


@ALL
def test_a_call_of_the_guided_pipeline_from_inside_itself_is_refused(case):
    pipe = case.pipe()
    expected = guided(case, pipe)[0]
    with pytest.raises(emag.Busy), at_step(pipe, 4, lambda: case.run(pipe)):
        guided(case, pipe)
    pipe.scheduler.__dict__.pop("step", None)
    assert torch.equal(guided(case, pipe)[0], expected)


def test_a_shared_network_may_be_guided_by_both_in_turn():
    case, pipe = CASES["sd3"], sd3()
    other = sharing(pipe)
    expected = guided(case, pipe)[0]
    with emag.guide(pipe, *rules_for(case)), emag.guide(other, *rules_for(case)):
        assert torch.equal(case.run(pipe), expected)
        assert torch.equal(case.run(other), expected)
        assert torch.equal(case.run(pipe), expected)
