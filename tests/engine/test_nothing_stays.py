"""Nothing stays behind, neutral rules change no bit, and the clean pass is the network's own."""

import inspect

import pytest
import torch

import emag
from cases import ALL, EMAG, EVERY
from invariant import APG, CADS, Stop, in_callback
from spy import blocks_of, changes, network_outputs, snapshot
from tiny import CASES, sd3

# 1: nothing stays behind


NEUTRAL = {"no rule": (), "scale 1": (EMAG(1.0),), "strength 0": (EMAG(strength=0.0),), "beta 0": (EMAG(beta=0.0),),
           "cads never": (emag.CADS(0.3, tau1=1.0, tau2=1.0),)}


@EVERY
@pytest.mark.parametrize("rules", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_neutral_rules_change_no_bit(case, rules):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    with emag.guide(pipe, *rules):
        assert torch.equal(case.run(pipe), plain)
        assert changes(before, snapshot(pipe)) == ["class"]
    assert changes(before, snapshot(pipe)) == []


@EVERY
def test_leaving_the_block_leaves_nothing(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    rules = (CADS, EMAG(), EMAG(variant="map"), *((APG,) if case.uncond else ()))
    with emag.guide(pipe, *rules):
        assert not torch.equal(case.run(pipe), plain)
        between = snapshot(pipe)
    assert changes(before, between, own=False) == ["class"]
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


@ALL
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [1, 7])
def test_an_exception_inside_a_block_leaves_nothing(case, error, calls):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    counted = []

    def fail(*args):
        counted.append(1)
        if len(counted) == calls:
            raise error("in flight")

    handle = blocks_of(pipe)[-1].register_forward_pre_hook(fail)
    with pytest.raises(error, match="in flight"), emag.guide(pipe, CADS, EMAG()):
        case.run(pipe)
    assert type(pipe) is before["class"]
    handle.remove()
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


@ALL
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_exception_in_the_loop_leaves_nothing(case, error):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    steps = []
    original = pipe.scheduler.step

    def step(*args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise error("in flight")
        return original(*args, **kwargs)

    pipe.scheduler.__dict__["step"] = step
    with emag.guide(pipe, EMAG()) as run:
        with pytest.raises(error, match="in flight"):
            case.run(pipe)
        del pipe.scheduler.__dict__["step"]
        after_failure = case.run(pipe)
        assert run.latest is not None
        steps.clear()
        pipe.scheduler.__dict__["step"] = step
        with pytest.raises(error, match="in flight"):
            case.run(pipe)
        del pipe.scheduler.__dict__["step"]
        assert run.latest is None
    with emag.guide(pipe, EMAG()):
        assert torch.equal(case.run(pipe), after_failure)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_exception_in_the_users_callback_leaves_nothing(error):
    case, pipe = CASES["sd3"], sd3()
    plain, before = case.run(pipe), snapshot(pipe)
    with pytest.raises(error), emag.guide(pipe, EMAG()):
        case.run(pipe, callback_on_step_end=in_callback(error))
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


def first_outputs(case, *rules):
    """What the network itself returns, at the first host call and the rest."""
    pipe = case.pipe()
    with network_outputs(pipe) as seen, emag.guide(pipe, *rules):
        case.run(pipe)
    return seen


@ALL
def test_the_clean_pass_is_bit_identical(case):
    """Up to the first weak pass latents agree, so the network's own clean answers must agree bit for bit, all rows."""
    pipe = case.pipe()
    with network_outputs(pipe) as plain:
        case.run(pipe)
    guided = first_outputs(case, EMAG(window=emag.Window.index(7, 3, 1)))
    same = 7 if case.name == "true-cfg" else 4
    assert all(torch.equal(a, b) for a, b in zip(plain[:same], guided[:same]))
    later = 8 if case.name == "true-cfg" else 4
    assert not torch.equal(plain[later], guided[later + 1])


@ALL
def test_the_clean_pass_does_not_depend_on_the_weak_one(case):
    """At one and the same x_t the clean answer is that of the plain network, also where averages and taps are at work."""
    pipe, seen = case.pipe(), []
    original = pipe.transformer.forward

    signature = inspect.signature(original)

    def forward(*args, **kwargs):
        answer, given = original(*args, **kwargs), signature.bind(*args, **kwargs).arguments
        seen.append(({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in given.items()}, answer[0].clone()))
        return answer

    pipe.transformer.__dict__["forward"] = forward
    with emag.guide(pipe, EMAG(variant="map")):
        case.run(pipe)
    del pipe.transformer.__dict__["forward"]
    rows = max(kwargs["hidden_states"].shape[0] for kwargs, _ in seen)
    full = [(kwargs, out) for kwargs, out in seen if kwargs["hidden_states"].shape[0] == rows]
    plain = [torch.equal(pipe.transformer(**kwargs)[0], out) for kwargs, out in full]
    # where a weak pass has as many rows as the clean one, exactly the weak answers differ
    weak = len(seen) - 8 * (2 if case.name == "true-cfg" else 1) if case.name in ("flux", "true-cfg") else 0
    assert plain.count(False) == weak
