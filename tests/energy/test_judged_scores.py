"""Scores by published networks and by references: small stand-ins loaded from disk, gradients, one naming scheme."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel, CLIPTokenizer

import emag
from emag.errors import BadValue
from emag.maths.energies import slope
from emag.models import judges
from emag.scores import (
    HPS,
    NAMED,
    AestheticScore,
    Alike,
    ClipScore,
    Colour,
    ImageRewardScore,
    OfFrames,
    Perceptual,
    PickScore,
    judged,
    named,
)
from emag.scores.references import LOOKS
from extracting import words
from shell import emag as shell
from tiny import CASES

close = torch.testing.assert_close
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def images(count=3, height=20, width=30, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small CLIP with its tokenizer, saved as published ones are."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(at) for at in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{letter}</w>" for letter in letters]]
    CLIPTokenizer(vocab={token: at for at, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    net = CLIPModel(CLIPConfig(text_config={**LAYERS, "vocab_size": len(tokens), **ends},
                               vision_config={**LAYERS, "image_size": 16, "patch_size": 8}, projection_dim=12))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    net.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def published(clip, monkeypatch, tmp_path):
    """Stand-ins with random weights behind every address, in files as the published ones are."""
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.text = torch.nn.Linear(3, 5), torch.nn.Embedding(40, 5)

        def encode_image(self, x):
            return self.image(x.mean((2, 3)))

        def encode_text(self, tokens):
            return self.text(tokens).mean(1)

    torch.manual_seed(1)
    vision, text = dict(hidden_size=12, image_size=16, patch_size=8, **SMALL), dict(
        hidden_size=16, encoder_hidden_size=12, vocab_size=31, **SMALL)
    net = judges.reward_network(BlipVisionConfig(**vision), BlipTextConfig(**text))
    files = {judges.HPS_FILES["2.0"]: {"state_dict": Tower().state_dict()}, judges.HPS_FILES["2.1"]: Tower().state_dict(),
             judges.AESTHETIC[1]: {f"layers.{name}": value for name, value in judges.head(12).state_dict().items()},
             judges.REWARD[1]: {_old(name): value for name, value in net.state_dict().items()}}
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda hub, name: str(tmp_path / name))
    monkeypatch.setattr(judges, "VISION", vision)
    monkeypatch.setattr(judges, "TEXT", text)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name, real=judges: words)
    monkeypatch.setitem(sys.modules, "open_clip", types.SimpleNamespace(
        create_model=lambda name, pretrained, precision: Tower(),
        get_tokenizer=lambda name: lambda texts: torch.tensor([[1 + ord(c) % 30 for c in text[:3].ljust(3)]
                                                               for text in texts])))
    forget()
    yield
    forget()


def forget():
    for loaded in (judged._clip, judged._hps, judged._imagereward, judged._aesthetic):
        loaded.cache_clear()


def _old(name):
    """A weight of our network by its name in ImageReward.pt."""
    new = {"vision.embeddings.patch_embedding.": "vision.patch_embed.proj.",
           "vision.embeddings.class_embedding": "vision.cls_token",
           "vision.embeddings.position_embedding": "vision.pos_embed",
           "vision.post_layernorm.": "vision.norm.", "vision.encoder.layers.": "vision.blocks.", ".layer_norm": ".norm",
           ".self_attn.qkv": ".attn.qkv", ".self_attn.projection": ".attn.proj", "vision.": "blip.visual_encoder.",
           "text.": "blip.text_encoder.", "head.": "mlp.layers."}
    for ours, theirs in new.items():
        if ours[0] == "." or name.startswith(ours):
            name = name.replace(ours, theirs, 1)
    return name


@pytest.fixture
def photo(tmp_path):
    pixels = (images(1, 12, 18, seed=5)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def made(name, clip):
    return {"clip": lambda: ClipScore("a red fox", clip), "scaled": lambda: ClipScore("a red fox", clip, scaled=True),
            "each": lambda: ClipScore(["fox", "ship", "frog"], clip),
            "pickscore": lambda: PickScore("a red fox", clip, None),
            "hps": lambda: HPS("a red fox"), "hps2.0": lambda: HPS("a red fox", "2.0"),
            "imagereward": lambda: ImageRewardScore("ship"), "aesthetic": lambda: AestheticScore(clip),
            "alike": lambda: Alike(images(1, seed=9), torch.sin), "lpips": lambda: Perceptual(
                images(1, seed=9), lambda x, y: (x - y).square().mean((1, 2, 3), keepdim=True))}[name]()


SCORES = ["clip", "scaled", "each", "pickscore", "hps", "hps2.0", "imagereward", "aesthetic", "alike", "lpips"]


@pytest.mark.parametrize("name", SCORES)
def test_one_number_an_image_with_a_gradient_that_rises(published, clip, name):
    score = made(name, clip)
    value, gradient = slope(images(), score)
    assert value.shape == (3,) and value.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        ahead, behind = (score((images() + h * direction).double().float()) for h in (2e-2, -2e-2))
    close((ahead - behind) / 4e-2, gradient.flatten(1).norm(dim=1), rtol=0.15, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "each"])
def test_an_image_is_scored_alone(published, clip, name):
    together = made(name, clip)(images())
    for at in range(3):
        close(made(name, clip)(images()[at:at + 1]), together[at:at + 1], atol=1e-5, rtol=1e-4)


def test_clip_is_transformers_own_forward_pass(clip):
    """Loaded from the folder as published ones are from theirs; images already of its size need no resizing."""
    square, net, tokenizer = images(2, 16, 16), CLIPModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    with torch.no_grad():
        theirs = net(**tokenizer(["a red fox", "a ship"], padding=True, return_tensors="pt"),
                     pixel_values=judged.normalised(square))
    for at, text in enumerate(("a red fox", "a ship")):
        close(ClipScore(text, clip, scaled=True)(square), theirs.logits_per_image[:, at], rtol=1e-4, atol=1e-4)
        close(ClipScore(text, clip)(square), theirs.logits_per_image[:, at] / net.logit_scale.exp(), rtol=1e-4, atol=1e-5)
    each = ClipScore(["a red fox", "a ship"], clip, scaled=True)
    close(each(square), theirs.logits_per_image.diagonal(), rtol=1e-4, atol=1e-4)


def test_scores_say_what_the_metrics_of_their_names_say(published, clip):
    """On bytes of the network's own size, where neither resizes."""
    pytest.importorskip("pyarrow")
    from emag.lab.evaluate.metrics.extractors import hps, rewards, towers

    drawn = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    big, texts = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8), ["ship"] * 3
    pairs = [(towers.Clip(clip, times=None), ClipScore("ship", clip, scaled=True), drawn),
             (hps.HPS("2.0"), HPS("ship", "2.0"), big), (rewards.ImageReward(), ImageRewardScore("ship"), drawn)]
    for metric, score, pictures in pairs:
        theirs = metric(pictures, texts)["score"] / (100 if score.name == "hps" else 1)
        ours = score(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
        close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-4)


def test_weights_loaded_under_inference_mode_still_give_gradients(clip):
    forget()
    with torch.inference_mode():
        score = ClipScore("a red fox", clip)
    assert slope(images(), score)[1].abs().sum() > 0
    forget()


def test_what_is_alike_is_what_the_look_gives(photo):
    reference = images(1, seed=9)
    close(Alike(reference, torch.sin)(images()), -(images().sin() - reference.sin()).square().flatten(1).mean(1))
    assert torch.equal(Alike(reference, torch.sin)(reference), torch.zeros(1))
    for name in LOOKS:
        score = named(f"{name}:{photo}")
        assert score(images()).shape == (3,) and (score(images()) < 0).all()
    turned = named(f"colours-of:{photo}").viewed(lambda x: x.flip(-1))
    close(turned(images().flip(-1)), named(f"colours-of:{photo}")(images()))


def test_a_look_may_be_a_users_network():
    """Depth: a network of the user's own, whose output a reference's is compared with."""
    torch.manual_seed(0)
    depth = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Tanh(), torch.nn.Conv2d(4, 1, 3))
    value, gradient = slope(images(), Alike(images(1, seed=9), depth))
    assert (value < 0).all() and (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_frames_of_a_video_are_scored_and_no_others():
    film = torch.rand(2, 3, 5, 8, 8, generator=torch.Generator().manual_seed(2))
    red = Colour(0.9, 0.1, 0.1)
    close(OfFrames(red, (1, -1))(film), (red(film[:, :, 1]) + red(film[:, :, 4])) / 2)
    close(named("frames:1+4:colour:0.9:0.1:0.1")(film), OfFrames(red, (1, -1))(film))
    _, gradient = slope(film, OfFrames(red, (1, -1)))
    assert gradient[:, :, [0, 2, 3]].abs().max() == 0 < gradient[:, :, [1, 4]].abs().min()


def test_names_say_what_the_classes_say(published, clip, photo):
    for text, score in ((f"clip@{clip}:a red fox", ClipScore("a red fox", clip)),
                        (f"aesthetic@{clip}", AestheticScore(clip)),
                        (f"pickscore@{clip}:a fox", PickScore("a fox", clip, None)), ("hps@2.0:fox", HPS("fox", "2.0")),
                        ("hps:fox", HPS("fox")), ("imagereward:fox", ImageRewardScore("fox"))):
        close(named(text)(images()), score(images()))
    for name, one in NAMED.items():
        assert one.example.partition(":")[0].partition("@")[0] == name and one.what


def test_a_score_by_name_steers_a_pipeline_and_is_told_in_its_record(clip):
    forget()
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, emag.CFG(3.0), emag.Energy(f"clip@{clip}:fox", 0.3, normalise="rms")) as run:
        steered = CASES["sd3"].run(pipe)
    assert f"clip@{clip}:fox" in str(run.record) and "rules" not in run.record["unrecorded"]
    with emag.guide(pipe, emag.CFG(3.0)):
        assert not torch.equal(steered, CASES["sd3"].run(pipe))


def test_and_a_command(clip, photo, monkeypatch, capsys, tmp_path):
    for score in (f"clip@{clip}:a fox", f"colours-of:{photo}"):
        code, _, err = shell(monkeypatch, capsys, "generate", "a photo of a ship", "-n", 3, "-g", "cfg=2", "-g",
                             f"energy={score},strength=0.1,normalise=rms", "-o", tmp_path / score[:4])
        assert code == 0, err
    code, _, err = shell(monkeypatch, capsys, "generate", "a photo of a ship", "-g", "cfg=2", "-g",
                         "energy=clip@/nowhere:a fox", "-o", tmp_path / "none")
    assert code == 2 and "weights cannot be loaded" in " ".join(err.split()) and not (tmp_path / "none").exists()


def test_lpips_needs_its_package_or_a_distance(monkeypatch, photo):
    from emag.scores import references

    references._lpips.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(BadValue, match="pip install lpips"):
        named(f"lpips:{photo}")

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()

        def forward(self, x, y):
            return (x - y).square().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=LPIPS))
    score = named(f"lpips:{photo}")
    reference = references.fitted(score.reference, images())
    close(score(images()), -4 * (images() - reference).square().mean((1, 2, 3)))
    references._lpips.cache_clear()


@pytest.mark.parametrize(("make", "match"), [
    (lambda: named("clip:"), "reads a text"), (lambda: ClipScore([]), "reads a text"),
    (lambda: named("clipp:fox"), "did you mean clip"),
    (lambda: named("edges@here:0.1"), "no model to choose"), (lambda: named("clip@:fox"), "no model to choose"),
    (lambda: named("aesthetic:fox"), "reads no text"), (lambda: named("hps@3:fox"), "versions 2.0, 2.1"),
    (lambda: named("edges-of:nowhere.png"), "No such file"), (lambda: named(f"pixels-of:{__file__}"), "it is no image"),
    (lambda: named("frames:one:edges"), "frames are numbers"), (lambda: named("frames:0:edgs"), "did you mean edges"),
    (lambda: OfFrames(Colour(1.0, 0, 0), ()), "at least one"),
    (lambda: OfFrames(Colour(1.0, 0, 0))(images()), "are of videos"),
    (lambda: OfFrames(Colour(1.0, 0, 0), (5,))(torch.rand(1, 3, 5, 4, 4)), "no frame 5 in a video of 5"),
    (lambda: Alike(images(1), 3), "a look is a function"),
    (lambda: Alike(images(2), torch.sin)(images()), "one for all, or one each"),
    (lambda: Alike(images(1), torch.Tensor.sum)(images()), "must give"),
    (lambda: Alike(2 * torch.ones(1, 3, 4, 4), torch.sin), r"must lie in \[0, 1\]")])
def test_refusals(make, match):
    with pytest.raises(BadValue, match=match):
        make()


def test_glide_is_classifier_guidance_by_clips_scaled_cosine(clip):
    """epsilon - 3 sigma grad_x (logit scale cos(f(x0(x)), g(text))), x0(x) = 0.8 x here."""
    name, one = f"clip-logit@{clip}:a red fox, at night", images(2)
    score, scale = named(name), CLIPModel.from_pretrained(clip).logit_scale.exp()
    close(score(one), scale * ClipScore("a red fox, at night", clip)(one))
    path = emag.Path.variance_preserving((0.9, 0.6, 0.0))

    def epsilon(*rules):
        (alpha, sigma), model = path.at(1), emag.guided(lambda x, t, c: 0.8 * x, *rules, path=path, prediction="x0")
        return (one - alpha * model(one, 1)) / sigma

    rule = emag.Energy.preset("glide", name)
    assert rule == emag.method("energy")(name, 3.0, through_network=True)
    close(epsilon(rule) - epsilon(), -3 * 0.6 * 0.8 * slope(0.8 * one, score)[1], atol=1e-4, rtol=1e-3)
