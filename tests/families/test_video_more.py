"""Video pipelines from a picture or a video, with sound, or with a guider: the laws of the others, and their own traps."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance, FlowMatchEulerDiscreteScheduler

import emag
import test_video
import test_video_methods
import video
from cases import EMAG
from emag.engine import seam
from emag.engine.reading import read_network
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.lab.draw.columns import _host_evaluations
from emag.lab.draw.sampling import DrawSettings, Job, arguments
from emag.lab.forecast import forecast
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.schedules import Interval
from emag.testing.small_video_more import MORE as LATEST
from emag.testing.small_video_more import hunyuan_video_15, ltx2
from emag.testing.small_wan import LONG, wan_vace
from emag.testing.small_wan import MORE as WANS
from spy import attribute, network_outputs
from video import Counted, Encoder, close, made

pytestmark = pytest.mark.sampled(2)

STEPS = video.STEPS
CASES = {name: replace(case, call=partial(case.call, num_inference_steps=STEPS))
         for name, case in {**WANS, **LATEST}.items() if name not in ("wan-experts", "wan-vace")}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
COMBINED = [case for case in CASES.values() if case.uncond]
WITH_UNCOND = pytest.mark.parametrize("case", COMBINED, ids=[case.name for case in COMBINED])
LAYERS = (1, 2)


def evaluated(case):
    """Steps of a run: a late start leaves out some."""
    return 3 if case.name.endswith("-video") else STEPS


# the laws


@ALL
def test_no_rule_and_neutral_rules_change_no_bit(case):
    test_video.test_no_rule_and_neutral_rules_change_no_bit(case)


@ALL
def test_the_clean_pass_is_bit_identical(case):
    """The first weak pass is that of the last step; up to it, all rows of all answers agree."""
    pipe, last = case.pipe(), evaluated(case) - 1
    with network_outputs(pipe) as plain:
        case.run(pipe)
    with network_outputs(pipe) as guided, emag.guide(pipe, EMAG(window=emag.Window.index(last, last, 0))):
        case.run(pipe)
    calls = 2 if case.uncond and not host_of(pipe).doubled else 1
    assert all(torch.equal(a, b) for a, b in zip(plain, guided[:last * calls + 1])) and len(guided) == len(plain) + 1


@pytest.mark.parametrize("case", [case for case in CASES.values() if "1.5" not in case.name], ids=lambda case: case.name)
def test_a_pipeline_is_left_as_it_was(case):
    test_video.test_a_pipeline_is_left_as_it_was(case)


@ALL
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_acts_and_costs_what_is_planned(case, variant):
    video.acts_and_costs(case, variant, evaluated(case) * 4)


@ALL
@pytest.mark.parametrize("block", [3])
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    test_video.test_a_resumed_weak_pass_equals_the_full_one(case, block)


@pytest.mark.parametrize("case", [case for case in CASES.values() if "ltx-2" not in case.name], ids=lambda case: case.name)
def test_a_skipped_block_hands_its_streams_on(case):
    test_video_methods.test_a_skipped_block_hands_its_streams_on(case, 1)


@ALL
def test_a_video_does_not_depend_on_its_batch_mates(case):
    rules = EMAG(), METHODS["seg"](1.5, LAYERS, 1.0)
    test_video.test_a_video_does_not_depend_on_its_batch_mates(case, rules)


@ALL
@pytest.mark.parametrize("name", ["slg", "tpg", "tsg", "apg"])
def test_methods_act_as_planned_or_say_why_not(case, name):
    if name == "tsg" and case.name in ("ltx-image", "ltx-2-image"):
        with pytest.raises(emag.Unsupported, match="one per token"):
            made(case, METHODS["tsg"](1.5))
    else:
        test_video_methods.test_methods_act_as_planned_or_say_why_not(case, name)


@ALL
def test_bfloat16_stays_finite(case):
    test_video_methods.test_bfloat16_stays_finite(case)


# what the scheduler gets


@pytest.fixture
def given(monkeypatch):
    """What the pipeline's own scheduler is handed; LTX2 copies it for the sound."""
    @contextmanager
    def steps(pipe):
        cls, seen = type(pipe.scheduler), []
        original = cls.step

        def step(self, model_output, *args, **kwargs):
            if self is pipe.scheduler:
                seen.append(model_output.clone())
            return original(self, model_output, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(cls, "step", step)
            yield seen

    monkeypatch.setattr(video, "scheduler_steps", steps)


def stepped(case, pred):
    """A prediction as the host hands it on: without the frame that is given."""
    sides = {"ltx-image": (2, 3, 3), "ltx-2-image": (2, 4, 4)}.get(case.name)
    return pred.unflatten(1, sides).movedim(-1, 1)[:, :, 1:] if sides else pred


@WITH_UNCOND
def test_the_scheduler_gets_our_cfg(case, given):
    """Exactly ours but for LTX2, which goes by x0 and back."""
    _, steps, handed = video.traced(case, emag.CFG(3.0))
    assert len(handed) == len(steps) == evaluated(case)
    for (cond, uncond, _), got in zip(steps, handed, strict=True):
        expected = stepped(case, cond + 2.0 * (cond - uncond))
        assert torch.equal(got, expected) or "ltx-2" in case.name
        close(got, expected, 2e-5)


@WITH_UNCOND
def test_the_host_combines_the_moved_prediction(case, given):
    _, steps, handed = video.traced(case, EMAG(1.5))
    for (cond, uncond, weak), got in zip(steps, handed, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        close(got, stepped(case, uncond + 4.0 * (pred - uncond)), 2e-5)
    assert any(weak is not None for *_, weak in steps)


# Wan: a picture, a video, control


def test_of_two_calls_of_an_attention_to_text_and_picture_the_texts_is_changed(monkeypatch):
    case, keys = CASES["wan-image"], []
    inside = seam.in_full_precision
    monkeypatch.setattr(seam, "in_full_precision", lambda handle, call, live: (keys.append(call.k.shape[-2]),
                                                                               inside(handle, call, live))[1])
    plain = case.run(case.pipe())
    out, run = made(case, METHODS["pladis"](2.0, layers=LAYERS, cross=True))
    assert set(keys) == {LONG} and run.stats.evaluations == STEPS * 8
    assert (out - plain).abs().max() > 1e-4 * plain.abs().max()


def test_a_late_start_counts_the_steps_it_has():
    case = CASES["wan-video"]
    pipe = case.pipe()
    with emag.guide(pipe, EMAG(window=emag.Window.index(2, 1, 0))) as run:
        case.run(pipe)
    assert run.stats.steps == 3 and [effect is not None for effect in run.stats.effects] == [False, True, True]
    with pytest.raises(emag.BadValue, match="no weak pass in 1 step"):
        made(case, EMAG(), strength=0.2)


VACE = replace(WANS["wan-vace"], call=partial(WANS["wan-vace"].call, (8,), num_inference_steps=STEPS))


def controlled(*rules, **more):
    """One video: VACE makes no more at a time."""
    pipe = wan_vace()
    counted = Counted(pipe)
    with network_outputs(pipe) as seen, emag.guide(pipe, *rules) as run:
        out = pipe(**VACE.call(**more)).frames
    return out, run, seen, counted


def test_control_beside_the_blocks():
    plain = wan_vace()(**VACE.call()).frames
    assert torch.equal(controlled(EMAG(1.0))[0], plain)
    out, run, _, counted = controlled(EMAG(), METHODS["slg"](1.3, (2,)), emag.CFG(3.0))
    assert run.stats.evaluations == run.stats.planned == counted.per_image(1) and not torch.equal(out, plain)


@pytest.mark.parametrize("block", range(4))
def test_a_resumed_pass_under_control_equals_the_full_one(block):
    answers = [controlled(EMAG(layers=(block,), compat=Compat(resume=resume)))[2] for resume in (True, False)]
    for resumed, full in zip(*answers, strict=True):
        close(resumed, full)


# HunyuanVideo 1.5: a guider


GUIDER = CASES["hunyuan-video-1.5"]


def test_a_guider_of_the_original_form_combines_from_the_conditional(given):
    pipe = hunyuan_video_15(scale=3.0, use_original_formulation=True)
    _, steps, handed = video.traced(GUIDER, EMAG(1.5), pipe=pipe)
    for (cond, uncond, weak), got in zip(steps, handed, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        close(got, pred + 3.0 * (pred - uncond), 1e-5)


@pytest.mark.parametrize("settings", [{"scale": 2.0}, {"scale": 9.0, "use_original_formulation": True},
                                      {"scale": 4.0, "guidance_rescale": 0.7}])
def test_whatever_the_guider_does_our_result_is_handed_on(settings, given):
    pipe = hunyuan_video_15(**settings)
    _, steps, handed = video.traced(GUIDER, emag.CFG(3.0), pipe=pipe)
    for (cond, uncond, _), got in zip(steps, handed, strict=True):
        close(got, cond + 2.0 * (cond - uncond), 1e-5)


def test_a_guider_switched_off_has_no_unconditional_rows():
    pipe = hunyuan_video_15()
    pipe.guider.disable()
    with emag.guide(pipe, EMAG()) as run:
        GUIDER.run(pipe)
    assert run.stats.clean == STEPS * 4
    with pytest.raises(emag.BadValue, match="its guider a guidance_scale above 1"), emag.guide(pipe, emag.CFG(3.0)):
        GUIDER.run(pipe)


@pytest.mark.parametrize(("guider", "reason"), [
    (ClassifierFreeZeroStarGuidance(4.0), "ClassifierFreeZeroStarGuidance: give it a plain"),
    (ClassifierFreeGuidance(4.0, start=0.2), "from 0.2 to 1"), (ClassifierFreeGuidance(4.0, stop=0.8), "from 0 to 0.8"),
    (ClassifierFreeGuidance(0.5), "scale 0.5")], ids=["other", "start", "stop", "below 1"])
def test_guiders_that_do_more_are_refused(guider, reason):
    pipe = hunyuan_video_15()
    pipe.guider = guider
    with pytest.raises(emag.Unsupported, match=reason), emag.guide(pipe, EMAG()):
        GUIDER.run(pipe)


def test_the_scale_of_a_guider_is_no_argument():
    pipe = hunyuan_video_15()
    with pytest.raises(emag.BadValue, match="scale in its guider"):
        arguments(pipe, [Job("a", "", 0)], DrawSettings(scale=3.0))
    GUIDER.run(pipe)
    assert _host_evaluations(pipe, {}) == 2 * STEPS * 4
    _, run = made(GUIDER, EMAG())
    assert "guider" in run.record["unrecorded"]


def test_both_encoders_give_a_condition():
    pipe = hunyuan_video_15()
    pipe.__dict__["encode_prompt"] = Encoder((5, 12), "mask", (4, 10), "mask")
    found = encode_condition(["a", "abc"], host_of(pipe), pipe, read_network(pipe.transformer))
    assert set(found) == {f"encoder_{name}{end}" for name in ("hidden_states", "attention_mask") for end in ("", "_2")}
    assert all(len(value) == 2 for value in found.values())


# LTX2: a sound beside the video


SOUND = CASES["ltx-2"]


@pytest.mark.parametrize("asked", [{"stg_scale": 1.0}, {"modality_scale": 3.0}, {"audio_stg_scale": 1.0},
                                   {"audio_modality_scale": 2.0}])
def test_guidance_of_its_own_is_refused(asked):
    with pytest.raises(emag.Unsupported, match=f"{next(iter(asked))}.*say stg_scale=0, .*modality_scale=1"):
        made(SOUND, EMAG(), **asked)


def sounds(*rules, **more):
    """Answers for the sound of the clean passes, and the sound the scheduler of the sound is handed."""
    pipe, clean, handed = ltx2(), [], []
    forward, step = pipe.transformer.forward, FlowMatchEulerDiscreteScheduler.step

    def spied(*args, **kwargs):
        answer = forward(*args, **kwargs)
        if len(answer[1]) == 4:
            clean.append(answer[1].clone())
        return answer

    def stepping(self, model_output, *args, **kwargs):
        if self is not pipe.scheduler:
            handed.append(model_output.clone())
        return step(self, model_output, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched, attribute(pipe.transformer, "forward", spied):
        patched.setattr(FlowMatchEulerDiscreteScheduler, "step", stepping)
        with emag.guide(pipe, *rules) as run:
            SOUND.run(pipe, **more)
    return run, clean, handed


@pytest.mark.parametrize("rules", [(EMAG(),), (emag.CFG(3.0),), (emag.CFG(Interval(3.0, 0.5, 5.0)), EMAG())],
                         ids=["host", "ours", "interval"])
def test_the_sound_keeps_the_hosts_own_guidance(rules):
    rules = tuple(sorted(rules, key=lambda rule: rule.name, reverse=True))
    run, clean, handed = sounds(*rules, audio_guidance_scale=5.0)
    assert len(clean) == len(handed) == STEPS and run.stats.evaluations == run.stats.planned
    for answer, got in zip(clean, handed, strict=True):
        uncond, cond = answer.chunk(2)
        close(got, uncond + 5.0 * (cond - uncond), 2e-5)


def test_the_scale_of_the_sound_alone_makes_unconditional_rows():
    _, run = made(SOUND, EMAG(), guidance_scale=1.0, audio_guidance_scale=5.0)
    assert run.stats.evaluations == run.stats.planned and run.stats.clean == STEPS * 4 * 2
    _, run = made(SOUND, EMAG(), guidance_scale=1.0, audio_guidance_scale=1.0)
    assert run.stats.clean == STEPS * 4


@pytest.mark.parametrize("name", ["ag", "cfg-cache", "rcfg"])
def test_rules_that_spare_the_unconditional_rows_would_take_the_sounds(name):
    with pytest.raises(emag.Unsupported, match="makes a sound"):
        made(SOUND, METHODS[name]())


@pytest.mark.parametrize("config", [{"perturbed_attn": True, "gated_attn": True, "cross_attn_mod": True,
                                     "audio_gated_attn": True, "audio_cross_attn_mod": True}])
def test_the_attention_of_later_versions(config):
    pipe = ltx2(**config)
    plain = SOUND.run(pipe)
    with emag.guide(pipe, EMAG(), METHODS["pladis"](2.0, layers=LAYERS, cross=True)) as run:
        assert not torch.equal(SOUND.run(pipe), plain) and run.stats.evaluations == run.stats.planned


def test_a_rescale_by_the_host_gives_our_result(given):
    _, steps, handed = video.traced(SOUND, emag.CFG(3.0), guidance_rescale=0.7)
    for (cond, uncond, _), got in zip(steps, handed, strict=True):
        close(got, cond + 2.0 * (cond - uncond), 1e-4)


# forecasts


@pytest.mark.parametrize(("name", "tokens", "text"), [("wan-vace", 21 * 30 * 52, 0), ("ltx-2", 16 * 16 * 24, 0),
                                                      ("hunyuan-video-1.5", 31 * 30 * 53, 1985)])
def test_a_forecast_needs_the_configuration_alone(tmp_path, name, tokens, text):
    pipe = {**WANS, **LATEST}[name].pipe()
    pipe.save_config(tmp_path)
    pipe.transformer.save_config(tmp_path / "transformer")
    found = forecast(str(tmp_path), [EMAG()], 28)
    assert (found["image_tokens"], found["text_tokens"], found["blocks"]) == (tokens, text, 4)


@pytest.mark.parametrize("name", ["hunyuan-video-1.5", "ltx-2", "ltx-2-image", "cogvideox-image"])
@pytest.mark.parametrize("more", [{"height": 64, "width": 96, "num_frames": 9}, {"num_frames": 1}],
                         ids=["wide", "one frame"])
def test_other_sizes(name, more):
    if name.endswith("image") and more["num_frames"] == 1:
        pytest.skip("the picture is the only frame")
    test_video_methods.test_other_sizes(CASES[name], more)
