"""Single files, GGUF, variants: what `load` makes of them, and how it refuses what it cannot."""

import importlib.util

import diffusers
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from safetensors.torch import load_file, save_file

import emag
from emag.errors import BadValue, Unsupported
from emag.families import HOSTS
from emag.hosts import opening
from emag.hosts.load import load
from tiny import quiet, sd3, sd3_call

GGUF = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not here")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small pipeline as a folder, and its network's weights as a file beside it."""
    folder = tmp_path_factory.mktemp("base")
    sd3(seed=1).save_pretrained(folder / "pipe")
    sd3(seed=2).transformer.save_pretrained(folder / "net")
    return folder / "pipe", folder / "net" / "diffusion_pytorch_model.safetensors"


def images(pipe, *rules):
    with emag.guide(quiet(pipe), *rules):
        return pipe(**sd3_call()).images


EMAG = emag.EMAG(1.5, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9))


def test_a_network_in_one_file_and_the_rest_from_a_base(base):
    folder, file = base
    pipe = load(file, base=str(folder), device="cpu")
    expected = sd3(seed=2)
    assert torch.equal(images(pipe), images(expected)) and torch.equal(images(pipe, EMAG), images(expected, EMAG))
    assert pipe.emag_source == {"model": str(file), "revision": None, "lora": None, "dtype": "float32", "base": str(folder)}


def test_another_pipeline_class(base):
    folder, file = base
    for pipe in (load(str(folder), pipeline="StableDiffusion3Img2ImgPipeline", device="cpu"),
                 load(file, base=str(folder), pipeline="StableDiffusion3Img2ImgPipeline", device="cpu")):
        assert type(pipe) is StableDiffusion3Img2ImgPipeline
    with pytest.raises(Unsupported, match="does not have"):
        load(file, base=str(folder), pipeline="NoSuchPipeline", device="cpu")


def test_a_variant_of_the_weights(tmp_path):
    sd3().save_pretrained(tmp_path, variant="fp16")
    assert torch.equal(images(load(tmp_path, variant="fp16", device="cpu")), images(sd3()))
    with pytest.raises(BadValue, match="cannot load"):
        load(tmp_path, device="cpu")
    with pytest.raises(BadValue, match="cannot load"):
        load(tmp_path, variant="fp8", device="cpu")


def write_gguf(path, tensors, kind):
    """A GGUF file; what fits no block of 32 stays float32. Returns the values that are in it."""
    import gguf

    writer, values = gguf.GGUFWriter(path, "sd3"), {}
    for name, tensor in tensors.items():
        blocks = kind is not None and tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        packed = gguf.quants.quantize(tensor.numpy(), kind) if blocks else tensor.numpy()
        writer.add_tensor(name, packed, raw_dtype=kind if blocks else None)
        values[name] = torch.from_numpy(gguf.quants.dequantize(packed, kind)) if blocks else tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


WIDE = {"attention_head_dim": 16, "caption_projection_dim": 32, "joint_attention_dim": 12}


@GGUF
@pytest.mark.parametrize("kind", [None, "Q8_0"])
def test_a_gguf_network(tmp_path, kind):
    """As a dense network of the values that are in the file; weak branches act; the record brings it back."""
    import gguf

    sd3(seed=1, **WIDE).save_pretrained(tmp_path / "pipe")
    dense, file = sd3(seed=2, **WIDE), tmp_path / "net.gguf"
    quantised = kind and gguf.GGMLQuantizationType[kind]
    values = write_gguf(file, dense.transformer.state_dict(), quantised)
    changed = [name for name, value in dense.transformer.state_dict().items() if not torch.equal(value, values[name])]
    assert bool(changed) == (kind is not None)
    dense.transformer.load_state_dict(values)
    folder = str(tmp_path / "pipe")
    for pipe in (load(folder, gguf=str(file), device="cpu"), load(file, base=folder, device="cpu")):
        for rules in ((), (EMAG,), (emag.EMAG(1.5, layers=(1,), variant="map", window=EMAG.window),)):
            made, expected = images(pipe, *rules), images(dense, *rules)
            assert (made - expected).abs().max() <= (1e-5 if kind is None else 5e-3) * expected.abs().max()


def test_gguf_without_its_package_is_one_line(base, tmp_path, monkeypatch):
    monkeypatch.setattr("emag.hosts.extras.find_spec", lambda name: None)
    (tmp_path / "net.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadValue, match=r"gguf is not installed: pip install emag\[gguf\]"):
        load(base[0], gguf=str(tmp_path / "net.gguf"), device="cpu")


def test_every_pipeline_is_known_by_its_class():
    """Before its weights are read, there is no pipeline yet to look at."""
    names = [name for name in HOSTS if hasattr(diffusers, name)]
    assert len(names) > 150 and [opening.pipeline_class("a folder", name).__name__ for name in names] == names


# which model a file is of


@pytest.mark.parametrize(("key", "shape", "base"), [
    ("model.diffusion_model.output_blocks.11.0.skip_connection.weight", (320, 640, 1, 1), "v1-5"),
    ("single_stream_modulation.lin.weight", (1, 1), "FLUX.2"),
    ("txtfusion.projector.weight", (1, 1), "Krea-2")])
def test_the_keys_tell_the_base(key, shape, base):
    assert base in opening._base({key: torch.empty(shape, device="meta")})


def test_a_whole_checkpoint_goes_to_its_pipelines_own_reader(base, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("diffusers.StableDiffusion3Pipeline.from_single_file",
                        classmethod(lambda cls, path, **how: seen.update(path=path, **how) or sd3()))
    save_file({"model.diffusion_model.x": torch.zeros(1), "vae.decoder.y": torch.zeros(1)}, tmp_path / "all.safetensors")
    load(tmp_path / "all.safetensors", base=str(base[0]), device="cpu")
    assert seen == {"path": str(tmp_path / "all.safetensors"), "config": str(base[0]), "dtype": torch.float32,
                    "revision": None}
    with pytest.raises(BadValue, match="leave it out"):
        load(tmp_path / "all.safetensors", base=str(base[0]), variant="fp16", device="cpu")


# refusals


@pytest.mark.parametrize(("name", "content", "more", "says"), [
    ("x.safetensors", b"nothing", {}, "cannot load"), ("x.safetensors", None, {}, "there is no file"),
    ("x.ckpt", b"\x80\x02", {}, "can run code"), ("x.bin", b"PK", {}, "can run code"),
    ("x.safetensors", b"nothing", {"gguf": "y.gguf"}, "name one of them")])
def test_files_that_are_refused(tmp_path, name, content, more, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadValue, match=says) as caught:
        load(tmp_path / name, device="cpu", **more)
    assert "\n" not in str(caught.value)


def test_a_file_of_unknown_keys_asks_for_its_base(tmp_path):
    save_file({"layers.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(BadValue, match="its keys do not tell what model it is: say base="):
        load(tmp_path / "x.safetensors", device="cpu")


def test_a_file_that_lacks_tensors_is_no_network(base, tmp_path):
    folder, file = base
    tensors = load_file(file)
    tensors.pop("transformer_blocks.0.attn.to_q.weight")
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(BadValue, match=r"does not fit the SD3Transformer2DModel of .*: name the base") as caught:
        load(tmp_path / "x.safetensors", base=str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@GGUF
def test_a_gguf_that_lacks_tensors_says_so(base, tmp_path):
    write_gguf(tmp_path / "x.gguf", {"pos_embed.proj.bias": torch.zeros(3)}, None)
    with pytest.raises(BadValue, match="does not fit the SD3Transformer2DModel of"):
        load(base[0], gguf=str(tmp_path / "x.gguf"), device="cpu")


@pytest.mark.parametrize(("name", "more", "says"), [
    ("tiny", {"gguf": "x.gguf"}, "leave out gguf"), ("tiny", {"variant": "fp16"}, "leave out variant"),
    ("pipe", {"base": "x"}, "for a single file")])
def test_what_does_not_belong_together(base, name, more, says):
    with pytest.raises(BadValue, match=says):
        load(base[0] if name == "pipe" else name, device="cpu", **more)
