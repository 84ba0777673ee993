"""Scores by HPS, ImageReward and aesthetics, with old names of weights."""

import sys
import types

import numpy as np
import pytest
import torch

from emag.errors import BadValue
from emag.lab.evaluate.metrics import measure, reference, resize
from emag.lab.evaluate.metrics.extractors import hps, rewards
from emag.models import judges
from extracting import close, pictures, words

pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")


class Tower(torch.nn.Module):
    """What HPS needs of open_clip: two encoders."""

    def __init__(self):
        super().__init__()
        self.image, self.text = torch.nn.Linear(3, 5), torch.nn.Embedding(31, 5)

    def encode_image(self, x):
        return self.image(x.mean((2, 3)))

    def encode_text(self, ids):
        return self.text(ids).mean(1)


@pytest.fixture
def open_clip(monkeypatch, tmp_path):
    """A stand-in for the package and for the hub: each version of HPS has its own file."""
    asked = []

    def download(repository, name):
        torch.manual_seed(len(name))
        torch.save({"state_dict": Tower().state_dict()}, tmp_path / name)
        asked.append(name)
        return str(tmp_path / name)

    def tokenizer(name):
        return lambda texts: torch.tensor([[1, len(text) % 31] for text in texts])

    monkeypatch.setitem(sys.modules, "open_clip", types.SimpleNamespace(
        create_model=lambda name, pretrained, precision: Tower(), get_tokenizer=tokenizer))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_hps_loads_the_version_asked_for_and_names_it(open_clip):
    images, texts = pictures(7), ["a", "bb", "ccc", "dddd"]
    scores = {}
    for number, file in (("2.0", "HPS_v2_compressed.pt"), ("2.1", "HPS_v2.1_compressed.pt")):
        made = hps.HPS(number)
        made.check()
        assert open_clip[-1] == file and f"v{number}" in made.version and "antialias" in made.version
        scores[number] = made(images, texts)["score"]
        net, tokenizer = made.loaded
        x = resize.normalised(resize.padded(images, 224), resize.CLIP_MEAN, resize.CLIP_STD)
        image, text = net.encode_image(x).detach().numpy(), net.encode_text(tokenizer(texts)).detach().numpy()
        close(scores[number], 100 * (image * text).sum(1) / np.linalg.norm(image, axis=1) / np.linalg.norm(text, axis=1),
              rtol=1e-4)
    assert not np.allclose(scores["2.0"], scores["2.1"])
    with pytest.raises(BadValue, match=r"versions 2.0, 2.1"):
        hps.HPS("3")


def test_a_checkpoint_with_code_is_not_run(open_clip, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "bad.pt")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: str(tmp_path / "bad.pt"))
    with pytest.raises(BadValue, match="weights cannot be loaded"):
        hps.HPS().check()
    assert not (tmp_path / "ran").exists()


OLD_NAMES = {
    "vision.embeddings.patch_embedding.": "vision.patch_embed.proj.",
    "vision.embeddings.class_embedding": "vision.cls_token", "vision.embeddings.position_embedding": "vision.pos_embed",
    "vision.post_layernorm.": "vision.norm.",
    "vision.encoder.layers.": "vision.blocks.", ".layer_norm": ".norm", ".self_attn.qkv": ".attn.qkv",
    ".self_attn.projection": ".attn.proj", "vision.": "blip.visual_encoder.", "text.": "blip.text_encoder.",
    "head.": "mlp.layers."}


def old_name(name):
    """A weight of our network by its name in ImageReward.pt."""
    for new, old in OLD_NAMES.items():
        if new[0] == "." or name.startswith(new):
            name = name.replace(new, old, 1)
    return name


@pytest.fixture
def reward():
    from transformers import BlipTextConfig, BlipVisionConfig

    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return judges.reward_network(BlipVisionConfig(hidden_size=12, image_size=16, patch_size=8, **layers),
                           BlipTextConfig(hidden_size=16, encoder_hidden_size=12, vocab_size=31, **layers))


def test_imagereward_finds_every_weight_by_its_old_name(reward):
    state = {old_name(name): value + 0 for name, value in reward.state_dict().items()}
    assert {"blip.visual_encoder.blocks.1.norm2.bias", "blip.visual_encoder.cls_token", "mlp.layers.7.weight",
            "blip.text_encoder.encoder.layer.0.crossattention.self.query.weight"} <= state.keys()
    found = judges.renamed({**state, "blip.vision_proj.weight": torch.ones(1)}, reward)
    assert found.keys() == reward.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in reward.state_dict().items())


def test_imagereward_reads_image_and_prompt_and_standardises(reward):
    made = rewards.ImageReward()
    made.__dict__["loaded"] = (reward, words)
    images = pictures(8)
    first = made(images, ["ship"] * 4)["score"]
    with torch.no_grad():
        reward["head"][-1].weight.mul_(2)
        reward["head"][-1].bias.mul_(2)
    doubled = made(images, ["ship"] * 4)["score"]
    mean, std = judges.REWARD_MEAN, judges.REWARD_STD
    close(doubled * std + mean, 2 * (first * std + mean), rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        reward["head"][0].weight.mul_(1e4)
        reward["head"][-1].weight.mul_(1e4)
    scores = [made(pictures(seed, 1), [text])["score"][0] for seed, text in ((8, "ship"), (9, "ship"), (8, "frog"))]
    assert len({round(float(score), 6) for score in scores}) == 3


def test_aesthetic_reads_the_normalised_embedding(clip):
    made, last = rewards.Aesthetic(), judges.head(12)
    made.__dict__["loaded"] = (clip, last)
    images = pictures(9)
    embedded = clip(images, [""] * 4)["features"]
    unit = torch.from_numpy(embedded / np.linalg.norm(embedded, axis=1, keepdims=True))
    close(made(images, [""] * 4)["score"], last(unit)[:, 0].detach(), rtol=1e-4, atol=1e-6)
    assert [p.shape[0] for p in last.parameters()][::2] == [1024, 128, 64, 16, 1]


@pytest.mark.parametrize("name", ["clipscore", "dinov2-fd", "pickscore", "hps2.1", "aesthetic", "imagereward", "fid"])
def test_missing_weights_or_packages_are_one_error_before_any_work(name, monkeypatch, tmp_path):
    def offline(*a, **k):
        raise OSError("there is no network")

    for place in ("huggingface_hub.hf_hub_download", "transformers.CLIPModel.from_pretrained",
                  "transformers.Dinov2Model.from_pretrained"):
        monkeypatch.setattr(place, offline)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    path = tmp_path / "foreign.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(BadValue, match=r"cannot be loaded|pip install"):
        measure.plan([name], reference.read(path))
