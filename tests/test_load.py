"""`load`: by name, folder or hub id, with LoRA, and errors of one line."""

import json
import shutil

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts import load as load_module
from emag.hosts.load import MODELS, WEIGHTS, load, split_scale
from emag.hosts.lookup import lookup
from emag.models.tiny import TinyPipeline
from tiny import generators, sd3, sd3_call


def image(pipe, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe("frog", num_inference_steps=2, output_type="pt", generator=generators((1,)), **more).images


def test_every_embedded_model_loads_and_says_what_it_is():
    for name in MODELS:
        pipe = load(name, device="cpu")
        assert lookup(pipe).name == "StableDiffusion3Pipeline" and type(pipe).emag_model == name
        assert pipe.emag_source == {"model": name, "revision": None, "lora": None, "dtype": "float32"}
        assert sum(file.stat().st_size for file in (WEIGHTS / name).iterdir()) < 25e6
        assert (WEIGHTS / name / "README.md").is_file()


def test_a_folder_in_the_small_format(tmp_path):
    shutil.copytree(WEIGHTS / "tiny", tmp_path / "mine")
    pipe = load(tmp_path / "mine", device="cpu")
    assert pipe.emag_source["model"] == str(tmp_path / "mine")
    assert torch.equal(image(pipe), image(load("tiny", device="cpu")))


def test_save_pretrained_and_back(tmp_path):
    pipe = load("tiny", device="cpu")
    pipe.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    assert type(again) is TinyPipeline and torch.equal(image(pipe), image(again))


def test_a_diffusers_folder(tmp_path):
    pipe = sd3()
    pipe.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again) is StableDiffusion3Pipeline and again.dtype == torch.float32
    assert torch.equal(pipe(**sd3_call()).images, again(**sd3_call()).images)
    assert load(str(tmp_path), device="cpu", dtype="bfloat16").emag_source["dtype"] == "bfloat16"


def test_a_lora_and_its_scale(tmp_path):
    peft = pytest.importorskip("peft")
    pipe = load("tiny", device="cpu")
    before = image(pipe)
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = peft.get_peft_model_state_dict(pipe.transformer)
    StableDiffusion3Pipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    full, half, none = (image(load("tiny", device="cpu", lora=f"{tmp_path}{scale}")) for scale in ("", ":0.5", ":0"))
    assert torch.allclose(none, before, atol=1e-5)
    assert not torch.allclose(full, before, atol=1e-2) and not torch.allclose(full, half, atol=1e-2)
    assert load("tiny", device="cpu", lora=f"{tmp_path}:0.5").emag_source["lora"] == f"{tmp_path}:0.5"


def test_the_scale_of_a_lora_is_what_follows_the_last_colon():
    assert split_scale("me/lora:0.7") == ("me/lora", 0.7)
    assert split_scale("me/lora") == ("me/lora", 1.0)
    assert split_scale("C:\\lora") == ("C:\\lora", 1.0)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"name": "huge"}, "no model 'huge': embedded are tiny"), ({"name": "./nowhere"}, "no model './nowhere'"),
    ({"name": "a/b/c"}, "no model"), ({"device": "abacus"}, "unknown device"), ({"dtype": "int8"}, "dtype must be one of"),
    ({"dtype": torch.int8}, "dtype must be one of"), ({"offload": "disk"}, "offload must be"),
    ({"offload": "model", "device": "cpu"}, "needs an accelerator"), ({"lora": "nobody/nothing"}, "cannot load the LoRA"),
    ({"name": "nobody/nothing"}, "cannot load nobody/nothing")])
def test_what_cannot_be_loaded_is_one_clear_line(arguments, says, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadValue, match=says) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadValue, match="torch finds no CUDA"):
        load(device="cuda")
    assert load().device.type == "cpu"


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(BadValue, match="holds no model"):
        load(tmp_path)
    (tmp_path / "prompt.json").write_text("{}")
    with pytest.raises(BadValue, match=r"lacks diffusion_pytorch_model\.safetensors, config\.json"):
        load(tmp_path)
    shutil.copytree(WEIGHTS / "tiny", tmp_path, dirs_exist_ok=True)
    (tmp_path / "prompt_embedding.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(BadValue, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "says"), [
    ("KandinskyPipeline", "not a supported pipeline"), ("NoSuchPipeline", "does not have"),
    ("UNet2DModel", "not a supported pipeline")])
def test_unsupported_pipelines_are_refused_before_their_weights_are_read(tmp_path, name, says, monkeypatch):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.0"}))
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises(Unsupported, match=says):
        load(tmp_path)


def test_a_hub_id_goes_to_its_own_class_with_safetensors_only(monkeypatch):
    seen = {}
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda name, revision: {
        "_class_name": "FluxPipeline", "tokenizer": ["transformers", "CLIPTokenizer"], "image_encoder": [None, None]})
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda name, **kwargs: seen.update(name=name, **kwargs))
    load_module._open("me/model", None, torch.device("cuda"), "v2")
    assert seen == {"name": "me/model", "dtype": torch.bfloat16, "revision": "v2", "use_safetensors": True,
                    "image_encoder": None}


def test_another_diffusers_is_refused_early(monkeypatch):
    from emag.hosts import versions
    from tiny import sd3

    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: "0.99.0")
    versions.check.cache_clear()
    with pytest.raises(Unsupported, match=r"diffusers 0.99.0 is here.*pip install 'diffusers"), emag.guide(sd3()):
        pass
    monkeypatch.undo()
    versions.check.cache_clear()
    versions.check()
