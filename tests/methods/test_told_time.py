"""Self-guidance: the same network at the same x, told a noisier time."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from own_function import denoiser_of
from reference import freeze
from tiny import CASES, Case
from whole_blocks import answer, close, evaluated

TOLD = pytest.mark.parametrize("case", [CASES[name] for name in ("sd3", "dit", "true-cfg")], ids=lambda case: case.name)


@TOLD
def test_the_weak_prediction_is_the_networks_at_a_noisier_time(case: Case):
    pipe, noise = case.pipe(), 1 if case.name == "true-cfg" else 1000  # what the network calls pure noise
    seen, handle = evaluated(case, emag.SG(2.0, 0.03), emag.CFG(3.0), pipe=pipe, steps=4)
    times = [float(t) / 1000 for t in pipe.scheduler.timesteps]
    weak = [call for call in seen if min(abs(told(call) / noise - t) for t in times) > 1e-6]
    # pure noise, at which flow models begin, has nothing noisier
    assert [told(call) / noise for call in weak] == pytest.approx([t + 0.03 for t in times if t < 1])
    assert len(weak) in (3, 4) and handle.stats.evaluations == handle.stats.planned
    clean = [call.values["hidden_states"] for call in seen if all(call is not other for other in weak)]
    for call in weak:
        close(call.out, answer(pipe.transformer, call.values), atol=1e-9, rtol=1e-9)
        assert any(torch.equal(call.values["hidden_states"], x[-2:]) for x in clean)  # at the same x


def told(call):
    return float(call.values["timestep"].max())


def test_a_network_that_does_not_see_the_time_is_its_own_weak_one():
    case = CASES["sd3"]
    pipe = freeze(case.pipe())
    with pytest.raises(NoEffect, match="never differed"), emag.guide(pipe, emag.SG(3.0)):
        case.run(pipe, num_inference_steps=3)


def test_off_where_nothing_is_shifted():
    assert emag.SG(4.0, 0.0).neutral and emag.SG(1.0).neutral and not emag.SG(4.0).neutral
    with pytest.raises(BadValue, match="sg shift must lie in"):
        emag.SG(2.0, 1.5)


def test_a_function_has_no_training_schedule():
    pipe = CASES["sd3"].pipe()
    with pytest.raises(Unsupported, match="share of the training schedule"):
        emag.guided(denoiser_of(pipe.transformer), emag.SG(2.0), path=(1.0, 0.5, 0.0), backbone=pipe.transformer)
