"""A callback may end the pipeline's own guidance on the way, as diffusers' own do: the run goes on with conditional rows."""

import pytest
import torch
from diffusers.callbacks import (
    PipelineCallback,
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)

import emag
from emag.errors import Unsupported
from emag.methods import METHODS
from emag.schedules import Interval
from emag.testing.small_joint import MORE as JOINT
from emag.testing.small_ragged import MORE as RAGGED
from emag.testing.small_unet import MORE as UNET
from emag.testing.small_video import MORE as VIDEO
from tiny import CASES, sd3, sd3_call

pytestmark = pytest.mark.sampled(2)

STEPS = 4
TEXTS = ["prompt_embeds", "pooled_prompt_embeds"]
XL = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]


class Off(PipelineCallback):
    """Ends the guidance of a pipeline that makes two calls."""

    tensor_inputs = ["latents"]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        if step_index == int(pipeline.num_timesteps * self.config.cutoff_step_ratio):
            pipeline._guidance_scale = 1.0 if pipeline.__class__.__name__ != "Krea2Pipeline" else 0.0
        return callback_kwargs


DOUBLED = {"sd3": (CASES["sd3"], SD3CFGCutoffCallback, ["latents", *TEXTS]), "sd": (UNET["sd"], SDCFGCutoffCallback, None),
           "sdxl": (UNET["sdxl"], SDXLCFGCutoffCallback, XL),
           "sdxl-control": (UNET["sdxl-control"], SDXLControlnetCFGCutoffCallback, [*XL, "image"])}
TWO_CALLS = {name: (case, Off, None) for name, case in (
    ("chroma", JOINT["chroma"]), ("klein", JOINT["klein"]), ("cogview4", JOINT["cogview4"]), ("lumina2", RAGGED["lumina2"]),
    ("krea2", RAGGED["krea2"]), ("wan", VIDEO["wan"]))}
ALL = {**DOUBLED, **TWO_CALLS}
EACH = pytest.mark.parametrize("name", ALL)


def made(name, *rules, ratio=0.5, **more):
    case, cutoff, inputs = ALL[name]
    pipe, own = case.pipe(), {} if inputs is None else {"callback_on_step_end_tensor_inputs": inputs}
    with emag.guide(pipe, *rules) as run:
        out = case.run(pipe, seeds=(8,), num_inference_steps=STEPS, **own, **more,
                       callback_on_step_end=cutoff(cutoff_step_ratio=ratio))
    return out, run


def far(a, b):
    return float((a - b).abs().max() / b.abs().max())


@EACH
def test_weak_branches_go_on(name):
    plain, (off, _), (on, run) = made(name)[0], *(made(name, METHODS["pag"](w, (1,))) for w in (1.000001, 2.0))
    assert far(off, plain) < 1e-3 < 1e-2 < far(on, plain)
    assert sum(effect is not None for effect in run.stats.effects) == run.stats.steps  # to the last step


@EACH
def test_rules_about_the_unconditional_prediction_rest(name):
    before, after = (made(name, METHODS["tcfg"](), ratio=ratio)[0] for ratio in (0.5, (STEPS - 1) / STEPS))
    assert before.isfinite().all() and far(before, after) > 1e-5


@pytest.mark.parametrize("name", ["sd3", "sd", "cogview4", "wan"])
def test_a_combining_rule_that_has_ended_too(name):
    """The callback acts after the step at the ratio: CFG of ours over the same steps gives the same images."""
    scale, last = 4.0, int(STEPS * 0.5) / (STEPS - 1) + 1e-6
    ours = made(name, emag.CFG(Interval(scale, 0.0, last, "progress")), guidance_scale=2.0)[0]
    assert far(ours, made(name, guidance_scale=scale)[0]) < 1e-3


@EACH
def test_a_combining_rule_that_has_not_is_refused_by_cause(name):
    with pytest.raises(Unsupported, match=r"cfg needs .* no longer evaluates it: a callback .* guidance_scale.*Interval"):
        made(name, emag.CFG(4.0))


def test_rules_that_need_rows_are_refused_by_cause():
    with pytest.raises(Unsupported, match=r"emag needs .* guidance_scale"):
        made("sd3", emag.EMAG(1.5, layers=(1, 2), window=emag.Window.progress(0, 0.2, 1.0), compat="sd3-official"))


def test_a_prediction_that_a_branch_gives_is_still_combined():
    ours = made("sd3", METHODS["icg"](), emag.CFG(4.0))[0]
    assert ours.isfinite().all() and far(ours, made("sd3")[0]) > 1e-2


def test_more_rows_on_the_way_are_out_of_turn():
    def wider(pipe, i, t, given):
        pipe._guidance_scale = 4.0
        return {name: torch.cat([value, value]) if name in TEXTS else value for name, value in given.items()}

    pipe = sd3()
    with emag.guide(pipe, METHODS["pag"](2.0, (1,))), pytest.raises(emag.EmagError, match="callback changes guidance_scale"):
        pipe(**sd3_call((8,), guidance_scale=1.0, callback_on_step_end=wider,
                        callback_on_step_end_tensor_inputs=["latents", *TEXTS]))


@pytest.mark.parametrize("name", ["sd3", "chroma"])
def test_branches_that_give_what_nobody_reads_are_not_evaluated(name):
    halves = [made(name, METHODS["icg"](), ratio=ratio)[1].stats.evaluations for ratio in (0.5, (STEPS - 1) / STEPS)]
    depth = made(name, METHODS["icg"]())[1].stats.depth
    assert halves[1] - halves[0] == depth  # the callback acts after its step: one more step with the branch
