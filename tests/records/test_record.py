"""Whatever changes an image is in its record, or named by it as unrecorded; whatever changes none is not."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

import emag
from emag.lab.draw import remake
from emag.lab.draw.sampling import DrawSettings, Job, arguments, draw_images, foreseen, jobs
from emag.records import fingerprint
from emag.records.record import checked_record, images_of
from emag.testing.cases import every
from tiny import CASES, dit, dit_call, sd3, sd3_call


def record_of(pipe, call=sd3_call, rules=(), **more):
    with emag.guide(pipe, *rules) as run:
        pipe(**call(**more))
    return run.record


def heavier(by):
    def change(pipe):
        with torch.no_grad():
            pipe.transformer.transformer_blocks[1].attn.to_q.weight.mul_(by)
    return change


def behind_autograd(pipe):
    pipe.transformer.transformer_blocks[0].norm1.linear.bias.data[3] += 1e-6


def rows_exchanged(pipe):
    weight = pipe.transformer.transformer_blocks[0].attn.to_k.weight
    weight.data = weight.data.flip(0)


def adapter(scale):
    def change(pipe):
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
        pipe.set_adapters(["mine"], [scale])
    return change


def scheduler(cls, **config):
    return lambda pipe: setattr(pipe, "scheduler", cls(**config))


class Own(FlowMatchEulerDiscreteScheduler):
    pass


class OwnProcessor:
    def __init__(self, processor):
        self.processor = processor

    def __call__(self, *args, **kwargs):
        return self.processor(*args, **kwargs)


def processed(pipe):
    attention = pipe.transformer.transformer_blocks[0].attn
    attention.processor = OwnProcessor(attention.processor)


def stepping(pipe):
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **kwargs: step(*args, **kwargs)


CHANGES = {
    "weights": heavier(1.001), "weights behind autograd": behind_autograd, "rows exchanged": rows_exchanged,
    "weights of the decoder": lambda pipe: pipe.vae.decoder.conv_out.bias.data.add_(0.1), "adapter": adapter(1.0),
    "shift": scheduler(FlowMatchEulerDiscreteScheduler, shift=5.0),
    "another class": scheduler(FlowMatchHeunDiscreteScheduler, shift=3.0),
    "shift set afterwards": lambda pipe: pipe.scheduler.set_shift(5.0), "a class of the user's": scheduler(Own, shift=3.0),
    "a patched step": stepping, "a hook": lambda pipe: pipe.transformer.proj_out.register_forward_hook(lambda *args: None),
    "a hook before": lambda pipe: pipe.vae.register_forward_pre_hook(lambda *args: None),
    "a processor": processed, "tiles": lambda pipe: pipe.vae.enable_tiling(),
    "scaling": lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5),
    "training mode": lambda pipe: pipe.transformer.train(),
    "16 bits": lambda pipe: pipe.vae.to(torch.bfloat16).to(torch.float32),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_pipeline_changes_the_record(change):
    pipe, plain = sd3(), record_of(sd3())
    assert record_of(pipe) == plain == record_of(pipe)
    change(pipe)
    assert record_of(pipe) != plain


def test_two_scales_of_one_adapter_are_two_records():
    one, two = sd3(), sd3()
    adapter(1.0)(one)
    adapter(0.5)(two)
    records = record_of(one), record_of(two)
    assert records[0] != records[1] and all("adapters of transformer" in each["unrecorded"] for each in records)


@pytest.mark.parametrize(("name", "what"), [
    ("weights", "changes of transformer"), ("weights of the decoder", "changes of vae"),
    ("adapter", "changes of transformer"), ("a class of the user's", "scheduler"),
    ("shift set afterwards", "scheduler"), ("a patched step", "code in scheduler"),
    ("a hook", "code in transformer"), ("a hook before", "code in vae"), ("a processor", "code in transformer")])
def test_what_cannot_be_written_down_is_named(name, what):
    pipe = sd3()
    pipe.emag_loaded = fingerprint.networks(pipe)
    assert what not in record_of(pipe)["unrecorded"]
    CHANGES[name](pipe)
    assert what in record_of(pipe)["unrecorded"]


@pytest.mark.parametrize("more", [{"callback_on_step_end": lambda pipe, i, t, kwargs: kwargs},
                                  {"sigmas": torch.linspace(1, 0.1, 4).numpy()}], ids=lambda more: next(iter(more)))
def test_arguments_that_are_no_data_are_named(more):
    assert next(iter(more)) in record_of(sd3(), num_inference_steps=4, **more)["unrecorded"]
    assert next(iter(more)) not in record_of(sd3())["unrecorded"]


def test_a_pipeline_without_a_name_is_named():
    assert "model" in record_of(sd3())["unrecorded"]


@pytest.mark.parametrize("case", ["sd3", "dit", "pixart", "flux"])
def test_a_run_changes_no_fingerprint(case):
    _stable(CASES[case])


@pytest.mark.long
@pytest.mark.parametrize("case", every().values(), ids=every())
def test_a_run_changes_no_fingerprint_of_any_pipeline(case):
    _stable(case)


def _stable(case):
    pipe = case.pipe()
    before = fingerprint.networks(pipe), fingerprint.scheduler(pipe)
    assert None not in (*before[0].values(), before[1]) and not fingerprint.patched(pipe)
    try:
        case.run(pipe)
    except NotImplementedError:  # what a pipeline of diffusers refuses says nothing here
        return
    assert (fingerprint.networks(pipe), fingerprint.scheduler(pipe)) == before and not fingerprint.patched(pipe)


@pytest.mark.parametrize("change", [
    scheduler(FlowMatchEulerDiscreteScheduler, shift=5.0, use_karras_sigmas=True),
    scheduler(FlowMatchHeunDiscreteScheduler)])
def test_a_scheduler_is_set_up_again_from_the_record(change):
    """As `emag again` does: the pipeline as it is loaded gets the record's scheduler, and draws the same picture."""
    pipe, fresh = sd3(), sd3()
    change(pipe)
    record = json.loads(json.dumps(record_of(pipe)))
    remake.fit(fresh, record)
    assert type(fresh.scheduler) is type(pipe.scheduler) and record_of(fresh) == record
    assert all(map(torch.equal, *(list(each(**sd3_call()).images) for each in (pipe, fresh))))


def test_numbers_of_a_scheduler_of_other_kinds():
    pipe = dit()
    for cls, config in ((DDIMScheduler, {"trained_betas": [0.1] * 1000}), (EulerDiscreteScheduler, {"beta_start": 0.01})):
        pipe.scheduler = cls(**config)
        assert fingerprint.scheduler(pipe) == {"class": cls.__name__, "config": config}
    pipe.scheduler = DDIMScheduler()
    assert record_of(pipe, dit_call)["state"]["scheduler"]["config"] == {}
    pipe.scheduler.alphas_cumprod[3] *= 1.5
    assert fingerprint.scheduler(pipe) is None


def test_other_weights_are_refused_before_the_work():
    pipe, record = sd3(), record_of(sd3())
    remake.fit(pipe, record)
    heavier(1.1)(pipe)
    with pytest.raises(emag.BadValue, match="transformer of '' is not what it was"):
        remake.fit(pipe, record)
    with pytest.raises(emag.BadValue, match="made by a 'FluxPipeline'"):
        remake.fit(pipe, {**record, "pipeline": "FluxPipeline"})
    remake.fit(pipe, {key: value for key, value in record.items() if key not in ("state", "pipeline")})


@pytest.mark.parametrize("data", [
    {"class": "FluxPipeline", "config": {}}, {"class": "os", "config": {}}, {"class": "DDIMScheduler", "config": {"x": 1}},
    {"class": "DDIMScheduler", "config": {"num_train_timesteps": 10**12}}, {"class": "__class__", "config": {}},
    {"class": "DDIMScheduler", "config": {"beta_schedule": {"a": []}}}, {"class": "SchedulerMixin", "config": {"a": 1}}])
def test_a_scheduler_of_a_stranger_is_one_line(data):
    with pytest.raises(emag.BadValue) as caught:
        remake.scheduler(data)
    assert "\n" not in str(caught.value)


def test_the_record_is_known_before_the_call():
    pipe, work = emag.load("tiny"), [Job("a frog", None, 3), Job("a ship", "a dog", 4)]
    pipe.set_progress_bar_config(disable=True)
    call = arguments(pipe, work, DrawSettings(steps=6))
    rules = (emag.EMAG(1.5),)
    told = foreseen(pipe, call, [3, 4], rules)
    assert draw_images(pipe, call, [3, 4], rules)[1].record == told
    assert not told["unrecorded"] and images_of(told) == 2
    with pytest.raises(emag.BadValue, match="refused the call"):
        foreseen(pipe, {**call, "colour": 3}, [3, 4], rules)


@pytest.mark.parametrize("damage", [
    {"model": 3}, {"model": {}}, {"model": {"model": ["a"]}}, {"model": {"model": "a", "lora": 5}}, {"rules": {}},
    {"rules": None}, {"call": []}, {"call": None}, {"seeds": "8"}, {"seeds": [1.5]}, {"seeds": []}, {"seeds": -1},
    {"seeds": 2**64}, {"seeds": True}, {"row": -1}, {"row": "0"}, {"row": None}, {"row": True}, {"row": 1.0},
    {"unrecorded": "no"}, {"unrecorded": [1]}, {"versions": []}, {"versions": {"torch": 2}}, {"state": 1},
    {"state": {"networks": []}},
    {"state": {"networks": {}, "scheduler": {"class": 1, "config": {}}}}, {"conditions": []}, {"pipeline": []},
    {"device": 1}])
def test_a_record_with_a_wrong_type_is_refused(damage):
    assert checked_record(GOOD) == GOOD
    with pytest.raises(emag.BadValue, match=next(iter(damage))):
        checked_record({**GOOD, **damage})


def test_a_record_without_a_part_is_refused():
    for part in GOOD:
        with pytest.raises(emag.BadValue, match=f"lacks {part}"):
            checked_record({key: value for key, value in GOOD.items() if key != part})
    for odd in ([GOOD], None, "record", 3):
        with pytest.raises(emag.BadValue, match="no object"):
            checked_record(odd)


GOOD = {"model": {"model": "tiny"}, "rules": [], "call": {"prompt": "a"}, "seeds": [1], "row": 0, "unrecorded": [],
        "versions": {}}


@pytest.mark.parametrize(("prompt", "negative", "seed"), [("\udce9", None, 1), ("a", "\ud800", 1), ("a", None, 2**64),
                                                          ("a", None, -1), ("a", None, True), ("a", None, 1.0)])
def test_a_job_is_text_and_a_seed_of_64_bits(prompt, negative, seed):
    with pytest.raises(emag.BadValue):
        Job(prompt, negative, seed)


def test_more_images_than_one_command_makes_are_refused_at_once():
    with pytest.raises(emag.BadValue, match="more than 100000 images"):
        jobs(["a"] * 1001, [], range(100))
    assert len(jobs(["a"] * 10, [], range(10))) == 100
