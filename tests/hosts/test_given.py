"""Conditions and masks that the user hands in: encoded, checked before the run, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.engine.reading import read_network
from emag.errors import BadValue, Unsupported
from emag.families import BACKBONES, HOSTS
from emag.hosts.given import Given, encode_condition, images
from emag.hosts.load import load
from emag.hosts.lookup import host_of
from emag.methods.combining.compose import Compose, Term
from emag.methods.combining.compositional import compositional, mask_cfg
from tiny import CASES, generators, noise

HOSTED = ("sd3", "dit", "pixart", "sigma", "flux", "true-cfg")
WITH_TEXT = tuple(name for name in HOSTED if name != "dit")


def written(case):
    """A tiny pipeline with a stand-in for its text encoders: a prompt's numbers come from its letters."""
    pipe = CASES[case].pipe()

    def one(text, *shape):
        return noise(sum(map(ord, text)) + len(shape), 1, *shape)

    own = getattr(pipe, "encode_prompt", None)

    def encode_prompt(*args, **more):
        if not args or not isinstance(args[0], list):  # the pipeline's own call, with its own embeddings
            return own(*args, **more)
        prompts = args[0]
        assert case in ("flux", "true-cfg") or more["do_classifier_free_guidance"] is False
        states, pooled = (torch.cat([one(text, *shape) for text in prompts]) for shape in ((7, 12), (10,)))
        if case == "sd3":
            return states, None, pooled, None
        if case in ("flux", "true-cfg"):
            return states, pooled, torch.zeros(7, 3)
        return states, torch.ones(states.shape[:2]), None, None

    pipe.encode_prompt = encode_prompt
    return pipe


def encoded(case, value, pipe=None):
    pipe = pipe or written(case)
    return encode_condition(value, host_of(pipe), pipe, read_network(pipe.transformer))


# encoding


@pytest.mark.parametrize("case", HOSTED)
def test_every_pipeline_encodes_prompts_and_labels(case):
    """What is encoded are arguments of the network, one row for each prompt."""
    found = encoded(case, ["11", "22", "33"])
    network = read_network(CASES[case].pipe().transformer)
    assert set(found) <= set(network.signature.parameters) and set(network.backbone.condition) <= set(found)
    rows = {name: len(value) for name, value in found.items() if name != "txt_ids"}
    assert set(rows.values()) == {3}
    one = encoded(case, "22")
    for name in rows:
        assert torch.equal(found[name][1:2], one[name])
    assert torch.equal(encoded(case, 22)[next(iter(one))], next(iter(one.values())))


def test_a_class_label_is_a_number_or_a_name():
    pipe = CASES["dit"].pipe()
    pipe.labels = {"fox": 277, "owl": 24}
    assert encoded("dit", ["fox", "3", 24], pipe)["class_labels"].tolist() == [277, 3, 24]
    for odd, says in (("1000", "0 to 999"), ("dog", "fox"), ("-1", "its number")):
        with pytest.raises(BadValue, match=says):
            encoded("dit", odd, pipe)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("value", ["a fox", {"encoder_hidden_states": noise(0, 1, 7, 12).double()}], ids=["text", "tensors"])
def test_the_dtype_is_the_networks(dtype, value):
    for case in WITH_TEXT:
        pipe = written(case)
        pipe.transformer.to(dtype)
        assert all(tensor.dtype == dtype for tensor in encoded(case, value, pipe).values())


def test_labels_stay_whole_numbers():
    pipe = CASES["dit"].pipe()
    pipe.transformer.to(torch.float16)
    assert encoded("dit", "3", pipe)["class_labels"].dtype == torch.int64
    assert encoded("dit", {"class_labels": torch.tensor([3])}, pipe)["class_labels"].dtype == torch.int64


@pytest.mark.parametrize("value", ["a fox", {"encoder_hidden_states": noise(0, 1, 7, 12)}], ids=["text", "tensors"])
def test_the_device_is_the_pipelines(value, monkeypatch):
    pipe = written("sd3")
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("meta"))
    assert {tensor.device.type for tensor in encoded("sd3", value, pipe).values()} == {"meta"}


def test_no_graph_is_kept():
    pipe = written("sd3")
    weight = torch.nn.Parameter(torch.ones(12))
    plain = pipe.encode_prompt
    pipe.encode_prompt = lambda *args, **more: (plain(*args, **more)[0] * weight, None, plain(*args, **more)[2], None)
    assert not any(tensor.requires_grad for tensor in encoded("sd3", "a fox", pipe).values())


@pytest.mark.parametrize(("case", "name", "expected"), [
    ("flux", "txt_ids", torch.zeros(9, 3)), ("true-cfg", "txt_ids", torch.zeros(9, 3)),
    ("pixart", "encoder_attention_mask", torch.ones(2, 9))])
def test_states_bring_along_what_goes_with_them(case, name, expected):
    states = noise(0, 2, 9, 12)
    assert torch.equal(encoded(case, {"encoder_hidden_states": states})[name], expected)
    own = torch.zeros_like(expected) + 0.5
    assert torch.equal(encoded(case, {"encoder_hidden_states": states, name: own})[name], own)
    assert set(encoded("sd3", {"encoder_hidden_states": states})) == {"encoder_hidden_states"}


# what is refused


@pytest.mark.parametrize(("case", "value", "says"), [
    ("sd3", {"prompts": "a fox"}, "no condition argument prompts; it has encoder_hidden_states, pooled_projections"),
    ("sd3", {"hidden_states": noise(0, 1, 4, 8, 8)}, "no condition argument hidden_states"),
    ("sd3", {"timestep": torch.ones(1)}, "no condition argument timestep"), ("sd3", {}, "none given"),
    ("sd3", {"encoder_hidden_states": [[0.5]]}, "must be a tensor .* got list"),
    ("sd3", {"encoder_hidden_states": torch.tensor(1.0)}, "must be a tensor"),
    ("dit", {"txt_ids": torch.ones(1, 3)}, "txt_ids"), ("sd3", [], "without any"), ("sd3", ["a", None], "list of prompts"),
    ("sd3", None, "got NoneType"), ("sd3", True, "got bool"), ("sd3", noise(0, 1, 7, 12), "got Tensor")])
def test_what_is_no_condition_is_refused(case, value, says):
    with pytest.raises(BadValue, match=says) as error:
        encoded(case, value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", WITH_TEXT)
def test_a_pipeline_without_text_encoders_asks_for_tensors(case):
    pipe = CASES[case].pipe()
    with pytest.raises(BadValue, match=r"could not encode 'a fox' .*'encoder_hidden_states': \.\.\.") as error:
        encoded(case, "a fox", pipe)
    assert "\n" not in str(error.value)


def test_a_network_whose_prompts_are_not_known_asks_for_tensors(monkeypatch):
    monkeypatch.setitem(BACKBONES, "SD3Transformer2DModel", replace(BACKBONES["SD3Transformer2DModel"], encode=None))
    with pytest.raises(Unsupported, match=r"StableDiffusion3Pipeline encodes .*'pooled_projections'"):
        encoded("sd3", "a fox")
    assert encoded("sd3", {"encoder_hidden_states": noise(0, 1, 7, 12)})


@pytest.mark.parametrize("error", [ValueError(""), RuntimeError("one\ntwo"), AttributeError("x"), TypeError("y")], ids=repr)
def test_what_an_encoder_raises_is_told_in_one_line(error):
    pipe = written("sd3")

    def fail(*args, **more):
        raise error

    pipe.encode_prompt = fail
    with pytest.raises(BadValue, match="could not encode 'a fox'") as told:
        encoded("sd3", "a fox", pipe)
    assert "\n" not in str(told.value) and told.value.__cause__ is error


def test_running_out_of_memory_is_not_hidden():
    pipe = written("sd3")

    def fail(*args, **more):
        raise torch.OutOfMemoryError("no memory")

    pipe.encode_prompt = fail
    with pytest.raises(torch.OutOfMemoryError):
        encoded("sd3", "a fox", pipe)


# names, rows and masks, before a run


def looked_up(case, rules, conditions=None, masks=None, arguments=None):
    pipe = written(case)
    network = read_network(pipe.transformer)
    return Given(conditions or {}, masks or {}).encoded(rules, host_of(pipe), pipe, network, arguments)


def test_only_named_conditions_are_encoded():
    rules = (Compose(UNCOND, (Term(2.0, "a"), Term(1.0, COND), Term(1.0, "prompt:an owl"), Term(0.0, "b"))),)
    found = looked_up("sd3", rules, {"a": "a fox", "b": ["odd", "rows"], "c": 3.5})
    assert set(found) == {"a", "prompt:an owl"}
    assert torch.equal(found["prompt:an owl"]["encoder_hidden_states"], encoded("sd3", "an owl")["encoder_hidden_states"])
    assert looked_up("sd3", (emag.CFG(2.0),), {"a": "a fox"}) == {}


def test_a_given_condition_comes_before_its_name_as_a_prompt():
    found = looked_up("sd3", (compositional({"prompt:x": 2.0}),), {"prompt:x": "an owl"})
    assert torch.equal(found["prompt:x"]["pooled_projections"], encoded("sd3", "an owl")["pooled_projections"])


def test_unknown_names_are_refused():
    with pytest.raises(BadValue, match=r"condition 'b', which was not given: .*conditions=\{'b': 'a prompt'\}"):
        looked_up("sd3", (compositional({"a": 2.0, "b": 1.0}),), {"a": "a fox"})
    with pytest.raises(BadValue, match=r"mask 'left', which was not given: .*masks=\{'left'"):
        looked_up("sd3", (mask_cfg({"a": "left*box:0:0:1:1"}),), {"a": "a fox"})
    assert looked_up("sd3", (mask_cfg({"a": "left"}),), {"a": "a fox"}, {"left": torch.ones(2, 2)})


@pytest.mark.parametrize(("host", "arguments", "count"), [
    ("StableDiffusion3Pipeline", {"prompt": "a fox"}, 1), ("StableDiffusion3Pipeline", {"prompt": ["a", "b"]}, 2),
    ("StableDiffusion3Pipeline", {"prompt": ["a", "b"], "num_images_per_prompt": 3}, 6),
    ("StableDiffusion3Pipeline", {"prompt": None, "prompt_embeds": torch.zeros(4, 7, 12), "num_images_per_prompt": 2}, 8),
    ("DiTPipeline", {"class_labels": [1, 2, 3]}, 3), ("DiTPipeline", {"class_labels": torch.tensor([1, 2])}, 2),
    ("DiTPipeline", {"class_labels": 5}, 1), ("FluxPipeline", {"prompt": "a", "num_images_per_prompt": None}, 1),
    ("FluxPipeline", {}, None)])
def test_how_many_images_a_call_makes(host, arguments, count):
    assert images(HOSTS[host], arguments) == count


THREE = {"prompt": ["x", "y", "z"]}
STATES, OTHERS = noise(0, 2, 7, 12), "pooled_projections"


@pytest.mark.parametrize(("value", "arguments", "says"), [
    ("a", THREE, None), (["a", "b", "c"], THREE, None), (["a", "b"], None, None),
    (["a", "b"], THREE, "3 images: encoder_hidden_states 2, .*give 1 or 3"),
    (["a", "b"], {"prompt": "x"}, "1 image: .*give 1$"),
    ({"encoder_hidden_states": STATES, OTHERS: noise(0, 1, 10)}, {"prompt": ["x", "y"]}, None),
    ({"encoder_hidden_states": STATES, OTHERS: noise(0, 3, 10)}, None, "the others: pooled_projections 3")])
def test_rows_are_one_or_one_for_each_image(value, arguments, says):
    rules = (compositional({"a": 2.0}),)
    if says is None:
        assert looked_up("sd3", rules, {"a": value}, arguments=arguments)
        return
    with pytest.raises(BadValue, match=says):
        looked_up("sd3", rules, {"a": value}, arguments=arguments)


def test_position_ids_of_the_text_have_no_rows():
    assert looked_up("true-cfg", (compositional({"a": 2.0}),), {"a": ["x", "y", "z"]}, arguments=THREE)


# in pipelines


@pytest.mark.parametrize("case", ["sd3", "dit", "pixart", "sigma", "true-cfg"])
def test_a_prompt_is_what_its_tensors_are(case):
    """By text in the rule, by a given text, and by the tensors it stands for: one and the same run."""
    pipe, text = written(case), "281"
    ways = [("prompt:281", {}), ("a", {"a": text}), ("a", {"a": [text, text]}), ("a", {"a": encoded(case, text)})]
    made = []
    for name, conditions in ways:
        with emag.guide(pipe, compositional({COND: 2.0, name: 1.5}), conditions=conditions):
            made.append(CASES[case].run(pipe))
    assert all(torch.equal(image, made[0]) for image in made)
    with emag.guide(pipe, compositional({COND: 2.0, "a": 1.5}), conditions={"a": "99"}):
        assert not torch.allclose(CASES[case].run(pipe), made[0], atol=1e-3)


def test_nothing_runs_where_a_condition_is_missing():
    pipe, calls = written("sd3"), []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(BadValue, match="'a', which was not given"):
        emag.guide(pipe, compositional({COND: 2.0, "a": 1.5}))
    assert not calls


def test_nothing_runs_where_a_condition_has_the_wrong_rows():
    pipe, calls = written("sd3"), []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    with emag.guide(pipe, compositional({COND: 2.0, "a": 1.5}), conditions={"a": ["x", "y", "z"]}):
        with pytest.raises(BadValue, match="'a' has a wrong number of rows for 2 images"):
            CASES["sd3"].run(pipe)
    assert not calls


@pytest.fixture(scope="module")
def tiny():
    pipe = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, *rules, prompts=("a photo of a cat",), **more):
    call = {"num_inference_steps": 3, "output_type": "latent", "generator": generators(range(len(prompts)))}
    with emag.guide(pipe, *rules, **more):
        return pipe(list(prompts), **call).images


def test_the_embedded_model_takes_prompts(tiny):
    """u + 3 (deer - u) is CFG on the deer, whatever the pipeline's own prompt; an empty prompt is the unconditional one."""
    deer = draw(tiny, emag.CFG(3.0), prompts=["a photo of a deer"])
    close = torch.testing.assert_close
    close(draw(tiny, compositional({"prompt:a photo of a deer": 3.0})), deer, atol=1e-4, rtol=1e-4)
    close(draw(tiny, compositional({"a": 3.0}), conditions={"a": "a deer"}), deer, atol=1e-4, rtol=1e-4)
    close(draw(tiny, compositional({"prompt:a deer": 3.0}, null="prompt:")), deer, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(draw(tiny, compositional({COND: 3.0})), deer, atol=0.1)


def test_the_embedded_model_takes_one_prompt_for_each_image(tiny):
    prompts = ["a photo of a cat", "a photo of a ship"]
    both = draw(tiny, compositional({"a": 3.0}), prompts=prompts, conditions={"a": ["a deer", "a frog"]})
    swapped = draw(tiny, emag.CFG(3.0), prompts=["a photo of a deer", "a photo of a frog"])
    torch.testing.assert_close(both, swapped, atol=1e-4, rtol=1e-4)


def test_a_prompt_the_embedded_model_cannot_draw_keeps_its_own_message(tiny):
    with pytest.raises(BadValue, match="names none of this model's classes"):
        draw(tiny, compositional({"prompt:a castle": 3.0}))


def test_the_embedded_model_refuses_its_own_prompt_as_a_further_one(tiny):
    with pytest.raises(emag.NoEffect, match="'prompt:a cat' is the one the images are made with"):
        draw(tiny, compositional({COND: 2.0, "prompt:a cat": 2.0}))


def test_a_stand_in_for_a_pipeline_needs_little():
    """Encoding asks a pipeline for its device and its encoder, nothing else."""
    pipe = SimpleNamespace(_execution_device=torch.device("cpu"), encode_prompt=written("sd3").encode_prompt)
    network = read_network(CASES["sd3"].pipe().transformer)
    found = encode_condition("a fox", HOSTS["StableDiffusion3Pipeline"], pipe, network)
    assert set(found) == {"encoder_hidden_states", "pooled_projections"}
