"""Other methods on joint models, texts and further conditions, and what cannot work."""

import pytest
import torch

import emag
from emag.engine.reading import read_network
from emag.lab.forecast import image_tokens, text_tokens
from emag.methods import METHODS as C
from emag.testing.small_joint import MORE as JOINT
from emag.testing.small_longcat import written
from joint import EMAG, MORE, attention_of, cases, close, far
from spy import Counter, blocks_of, network_outputs
from tiny import TEXT, noise

pytestmark = pytest.mark.sampled(2)

# 7: other methods


WEAK = {"pag": C["pag"](1.5, layers=(1,)), "slg": C["slg"](1.5, layers=(1,)), "seg": C["seg"](1.5, layers=(1,), sigma=1.0),
        "tpg": C["tpg"](1.5, layers=(1,)), "s2": C["s2"](1.5, layers=(1,)), "negative": C["negative"](1.5)}
NULL = {"ag": (C["ag"](-2.0), emag.CFG(3.0)), "apg": (emag.APG(3.0, norm_threshold=2.5, momentum=-0.5),),
        "tcfg": (C["tcfg"](), emag.CFG(3.0))}


@cases()
@pytest.mark.parametrize(("name", "last"), [(name, last) for name in WEAK for last in (False, True)
                                            if name != "negative" or not last])
def test_weak_methods_act(case, name, last):
    pipe, rule = case.pipe(), WEAK[name]
    if last:
        rule = type(rule)(**{**vars(rule), "layers": (case.depth(pipe) - 1,)})
    plain, counter = case.run(pipe), Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, rule, conditions={"negative": {"encoder_hidden_states": noise(70, 1, 3, 12)}}) as run:
        made = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counter.blocks.values()) / 2
    assert made.isfinite().all() and far(made, plain) > 1e-3


@cases()
def test_branches_of_one_batched_pass_do_not_mix(case):
    """PAG and SEG share a pass of twice the rows; what they add to one step is the sum of what each adds alone."""
    pipe = case.pipe()
    off = {"num_inference_steps": 1, **({case.scale: 1.0} if case.uncond else {})}
    for block in (1, case.depth(pipe) - 1):
        rules = (C["pag"](1.5, layers=(block,)), C["seg"](1.5, layers=(block,), sigma=1.0))
        plain, moved = case.run(pipe, **off), []
        for chosen in (rules[:1], rules[1:], rules):
            with network_outputs(pipe) as raw, emag.guide(pipe, *chosen):
                moved.append(case.run(pipe, **off) - plain)
        assert len(raw) == 2 and len(raw[1]) == 2 * len(raw[0])
        close(moved[2], moved[0] + moved[1], atol=1e-3, rtol=1e-3)


@cases()
@pytest.mark.parametrize("name", NULL)
def test_methods_on_the_unconditional_prediction_act_or_are_refused(case, name):
    pipe = case.pipe()
    plain, counter = case.run(pipe), Counter(pipe.transformer, attention_of(case))
    if not case.uncond:
        with pytest.raises(emag.BadValue, match="evaluates none"), emag.guide(pipe, *NULL[name]):
            case.run(pipe)
        assert counter.blocks == {}
        return
    with emag.guide(pipe, *NULL[name]) as run:
        made = case.run(pipe)
    # AG spares the rest of the run at once here: known after the first step only
    assert run.stats.evaluations == sum(counter.blocks.values()) / 2 <= run.stats.planned
    assert made.isfinite().all() and far(made, plain) > 1e-3


# 9: text


@cases()
@pytest.mark.parametrize("rule", [C["pag"], C["seg"]], ids=["pag", "seg"])
def test_the_attention_of_text_tokens_is_untouched(case, rule):
    pipe = case.pipe()
    for block in (1, case.depth(pipe) - 1):  # in the second, text and image may be one stream
        seen, module = [], getattr(blocks_of(pipe)[block], attention_of(case))
        handle = module.register_forward_hook(lambda m, args, out, seen=seen: seen.append(out))
        more = {"sigma": 1.0} if rule is C["seg"] else {}
        with emag.guide(pipe, rule(1.5, layers=(block,), **more)):
            case.run(pipe, num_inference_steps=1)
        handle.remove()
        (image, text), (weak_image, weak_text) = (apart(out) for out in seen[:2])
        close(weak_text, text, atol=1e-5, rtol=1e-5)
        assert far(weak_image, image) > 1e-3


def apart(out):
    return out if isinstance(out, tuple) else (out[:, TEXT:], out[:, :TEXT])


@cases("chroma", "flux2", "klein")
def test_only_image_tokens_of_a_joined_stream_are_shuffled(case):
    pipe, seen = case.pipe(), []
    block = case.depth(pipe) - 1
    blocks_of(pipe)[block].register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["hidden_states"]),
                                                     with_kwargs=True)
    with emag.guide(pipe, C["tpg"](1.5, layers=(block,))):
        case.run(pipe, num_inference_steps=1)
    clean, weak = seen[:2]
    assert torch.equal(weak[:, :TEXT], clean[:, :TEXT]) and not torch.equal(weak, clean)
    assert torch.equal(weak[:, TEXT:].sum(2).sort(1).values, clean[:, TEXT:].sum(2).sort(1).values)


# further conditions


MASK = {"qwen": "encoder_hidden_states_mask", "chroma": "attention_mask"}
"""The network's mask over the text, where it takes one."""


def masked(case, states, mask):
    """The network's arguments of a text."""
    return {"encoder_hidden_states": states, **({MASK[case.name]: mask} if case.name in MASK else {})}


@cases(uncond=True)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_a_further_condition_is_evaluated_as_the_pipeline_does(case, dtype):
    """The negative prompt once more, as a condition: the unconditional prediction of the pipeline."""
    pipe, call = case.pipe(), case.call()
    call = {name: value.to(dtype) if "mask" in name else value for name, value in call.items()}
    given = masked(case, noise(900, 1, TEXT, 12), torch.tensor([[1, 1, 1, 1, 0]]).to(dtype))
    with network_outputs(pipe) as raw, emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
        pipe(**call)
    for cond, weak, null in zip(raw[::3], raw[1::3], raw[2::3], strict=True):
        close(weak, null, atol=1e-5, rtol=1e-5)
        assert far(weak, cond) > 1e-2


@cases()
def test_a_condition_may_have_another_length(case):
    """The tensors that go with a text are made to fit it: left out, they keep all of it."""
    pipe, made = case.pipe(), []
    states = noise(70, 1, 3, 12)
    for given in ({"encoder_hidden_states": states}, masked(case, states, torch.ones(1, 3))):
        with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
            made.append(case.run(pipe))
    assert torch.equal(*made)


@cases()
def test_a_condition_that_is_the_prompt_has_no_effect(case):
    pipe = case.pipe()
    call = {name: torch.ones_like(value) if "mask" in name else value for name, value in case.call((8,)).items()}
    states = written(call["prompt"]) if case.name == "longcat" else call["prompt_embeds"]
    given = {"negative": {"encoder_hidden_states": states}}
    with pytest.raises(emag.NoEffect, match="the images are made with"):
        with emag.guide(pipe, C["negative"](1.5), conditions=given):
            pipe(**call)


def test_masked_text_does_not_count():
    case, pipe, made = MORE["qwen"], MORE["qwen"].pipe(), []
    states = noise(70, 1, 7, 12)
    for count in (3, 7):
        given = masked(case, states[:, :count], (torch.arange(count) < 3)[None])
        with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
            made.append(case.run(pipe))
    assert far(*made) < 1e-5


ENCODER = {"qwen": "_get_qwen_prompt_embeds", "chroma": "_get_t5_prompt_embeds",
           "flux2": "_get_mistral_3_small_prompt_embeds", "klein": "_get_qwen3_prompt_embeds", "cogview4": "_get_glm_embeds"}


@cases(*JOINT)
def test_prompts_are_encoded_by_the_pipeline(case):
    pipe, made = case.pipe(), []
    found, mask = noise(70, 1, 3, 12), torch.tensor([[1.0, 1.0, 0.0]])
    answer = (found, mask) if case.name in MASK else found
    vars(pipe)[ENCODER[case.name]] = lambda *args, **kwargs: answer
    for negative, given in (("prompt:a text", {}), ("negative", {"negative": masked(case, found, mask)})):
        with emag.guide(pipe, C["negative"](1.5, negative=negative), conditions=given):
            made.append(case.run(pipe))
    assert torch.equal(*made)


def test_a_further_prompt_of_longcat_is_its_tensors():
    """Its small pipeline has a stand-in for its encoder: a number stands for a text."""
    case, pipe, made = MORE["longcat"], MORE["longcat"].pipe(), []
    for negative, given in (("prompt:70", {}), ("negative", {"negative": {"encoder_hidden_states": written(["70"])}})):
        with emag.guide(pipe, C["negative"](1.5, negative=negative), conditions=given):
            made.append(case.run(pipe))
    assert torch.equal(*made)


# what cannot work


def test_a_distilled_klein_has_no_unconditional_rows():
    case = MORE["klein"]
    pipe = case.pipe()
    pipe.register_to_config(is_distilled=True)
    counter = Counter(pipe.transformer, "attn")
    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counter.blocks.values()) / 2
    assert run.stats.clean == run.stats.steps * run.stats.depth
    with pytest.raises(emag.BadValue, match="evaluates none"), emag.guide(pipe, emag.CFG(3.0)):
        case.run(pipe)


def test_where_chroma_embeds_the_timestep_is_not_known():
    case = MORE["chroma"]
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match="embeds the timestep"), emag.guide(pipe, C["tsg"](1.5)):
        case.run(pipe)


@cases()
def test_every_model_has_defaults(case):
    pipe = case.pipe()
    with emag.guide(pipe, emag.EMAG(), *((emag.CFG(),) if case.uncond else ())) as run:
        case.run(pipe, num_inference_steps=28)
    assert run.resolved[0].scale == 1.5 and run.resolved[0].layers


@cases()
def test_tokens_of_a_forecast(case):
    network = read_network(case.pipe().transformer)
    assert image_tokens(network, 1024, 512) == 64 * 32
    assert text_tokens(network, None) >= 128 and text_tokens(network, 7) == 7
