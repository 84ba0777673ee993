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
from emag.hosts.lookup import host_of
from emag.models.tiny import TinyPipeline
from tiny import generators, sd3, sd3_call


def image(pipe, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe("frog", num_inference_steps=2, output_type="pt", generator=generators((1,)), **more).images


def test_every_embedded_model_loads_and_says_what_it_is():
    for name in MODELS:
        pipe = load(name, device="cpu")
        assert host_of(pipe).name == "StableDiffusion3Pipeline" and type(pipe).emag_model == name
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
    ("Ideogram4Pipeline", "not a supported pipeline"), ("NoSuchPipeline", "does not have"),
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
    monkeypatch.setattr("emag.hosts.load.hub.cached_only", lambda *args: False)
    load_module._open("me/model", None, torch.device("cuda"), "v2")
    assert seen == {"name": "me/model", "dtype": torch.bfloat16, "revision": "v2", "use_safetensors": True,
                    "image_encoder": None}


def test_another_diffusers_is_refused_early(monkeypatch):
    from emag.hosts import versions
    from tiny import sd3

    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: "0.99.0")
    versions.check_versions.cache_clear()
    with pytest.raises(Unsupported, match=r"diffusers 0.99.0 is here.*pip install 'diffusers"), emag.guide(sd3()):
        pass
    monkeypatch.undo()
    versions.check_versions.cache_clear()
    versions.check_versions()


@pytest.fixture
def hub(monkeypatch):
    """The hub's answer to a question for a file, and whether the file was fetched before. It is asked once."""
    from emag.hosts import hub

    asked = []

    def answers(error, cached=None):
        def ask(url, timeout):
            asked.append(url)
            assert len(asked) == 1 and timeout <= 10
            if error is not None:
                raise error
        monkeypatch.setattr(hub, "get_hf_file_metadata", ask)
        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args, **kwargs: cached)
        monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda *a, **k: pytest.fail("asked in vain"))

    return answers


def refusal(kind):
    """An error of the hub's own, without the answer that it is made from."""
    from huggingface_hub import errors

    cls = getattr(errors, kind)
    return cls.__new__(cls)


@pytest.mark.parametrize(("error", "says"), [
    (OSError("Name or service not known"), "cannot be reached .Name or service not known.; it is not in the cache"),
    (TimeoutError(), "cannot be reached .TimeoutError."),
    (ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "CERTIFICATE"),
    ("RepositoryNotFoundError", "no such repository, or it is private"), ("GatedRepoError", "licence accepted"),
    ("RevisionNotFoundError", "no revision 'v2'"), ("RemoteEntryNotFoundError", "has no model_index.json")])
def test_an_unknown_hub_id_is_refused_at_once_with_the_true_cause(hub, error, says):
    hub(refusal(error) if isinstance(error, str) else error)
    with pytest.raises(BadValue, match=says) as caught:
        load("some/where", revision="v2")
    assert "\n" not in str(caught.value)
    assert says.startswith("has no") or "there is no folder some/where here, nor some/" in str(caught.value)


@pytest.mark.parametrize("source", ["nobody/lora", "nobody/lora:0.5"])
def test_a_lora_that_cannot_be_had_is_refused_before_the_model_is_loaded(hub, source, monkeypatch):
    monkeypatch.setattr(load_module, "_open", lambda *args: pytest.fail("the model was loaded"))
    hub(OSError("no route"))
    with pytest.raises(BadValue, match=r"cannot load the LoRA nobody/lora: .*no route"):
        load("tiny", lora=source)


def test_a_model_from_the_cache_needs_no_hub(hub, monkeypatch):
    hub(OSError("no route"), cached="/cache/model_index.json")
    seen = {}
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda name, **how: seen.update(how) or {
        "_class_name": "FluxPipeline"})
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda name, **kwargs: kwargs["local_files_only"])
    assert load_module._open("me/model", None, torch.device("cpu"), None) is True and seen["local_files_only"]


@pytest.mark.parametrize(("name", "content", "says"), [
    ("lora.safetensors", b"not tensors", "cannot load the LoRA"), ("lora.safetensors", b"", "cannot load the LoRA"),
    ("lora.bin", b"PK\x03\x04", "no safetensors file"), ("lora.pt", b"\x80\x02", "no safetensors file"),
    ("deep/readme.md", b"", "holds no safetensors file"),
    ("lora.safetensors", (10**15).to_bytes(8, "little") + b"{}", "cannot load the LoRA")])
def test_a_lora_that_is_no_safetensors_file_is_one_line_before_the_model(tmp_path, name, content, says, monkeypatch):
    monkeypatch.setattr(load_module, "_open", lambda *args: pytest.fail("the model was loaded"))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(BadValue, match=says) as caught:
        load("tiny", lora=str(path if "." in name.partition("/")[0] else path.parent))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf"])
def test_a_lora_has_a_finite_scale(scale):
    with pytest.raises(BadValue, match="finite"):
        split_scale(f"me/lora:{scale}")


@pytest.mark.parametrize(("file", "content"), [
    ("prompt.json", "[" * 10_000), ("prompt.json", "[]"), ("prompt.json", "3"), ("prompt.json", '{"scale": "x"}'),
    ("prompt.json", '{"scale": 1, "vocab": 3, "classes": {}, "max_length": []}'), ("prompt.json", "\x00"),
    ("config.json", "[]"), ("config.json", "{}"), ("config.json", '{"num_layers": "two"}'), ("config.json", "[" * 10_000)])
def test_a_damaged_model_folder_is_one_line(tmp_path, file, content):
    shutil.copytree(WEIGHTS / "tiny", tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(BadValue, match="cannot be read") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
