"""Image prompts of conditions: a branch with another picture than the call's, which a negative style image is."""

import pytest
import torch
from PIL import Image

import emag
from adapters import with_flux_adapter, with_sd3_adapter, with_unet_adapter
from emag.engine.reading import read_network
from emag.errors import BadValue, NoEffect, Unsupported
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.methods.combining.compose import Compose, Term
from emag.testing.small_unet import MORE, sd
from tiny import CASES, noise

GOOD, BAD, OTHER = noise(710, 1, 1, 6), noise(700, 1, 1, 6), noise(720, 1, 1, 6)
SCALE = 3.0


class Hosted:
    """A pipeline with an adapter, called for one image with a picture of its own in each half."""

    def __init__(self, name, pipe, case, doubled):
        self.name, self.pipe, self.case, self.doubled = name, pipe, case, doubled

    def run(self, bad=BAD, good=GOOD, seeds=(8,), **more):
        if self.name == "sd":
            more["ip_adapter_image_embeds"] = [torch.cat([bad, good])]
        elif self.name == "sd3":
            more["ip_adapter_image_embeds"] = torch.cat([bad, good])
        else:
            more |= {"ip_adapter_image_embeds": [good], "negative_ip_adapter_image_embeds": [bad]}
        return self.case.run(self.pipe, seeds, **more)

    def text(self, side, seeds=(8,)):
        """The call's own embeddings of one side, as network arguments."""
        call, prefix = self.case.call(seeds), "negative_" if side == "uncond" else ""
        names = {"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"}
        return {name: call[prefix + key] for name, key in names.items() if call.get(prefix + key) is not None}


def hosted(name):
    if name == "sd":
        return Hosted(name, with_unet_adapter(sd()), MORE["sd"], True)
    if name == "sd3":
        return Hosted(name, with_sd3_adapter(CASES["sd3"].pipe()), CASES["sd3"], True)
    return Hosted(name, with_flux_adapter(CASES["true-cfg"].pipe()), CASES["true-cfg"], False)


HOSTS = pytest.mark.parametrize("name", ["sd", "sd3", "true-cfg"])


def far(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@HOSTS
def test_a_negative_style_image_as_a_condition_is_the_pipelines_own_in_the_null_rows(name):
    """StyleStudio: u + w (c - u), u under the negative text and the negative style image."""
    host = hosted(name)
    with emag.guide(host.pipe, emag.CFG(SCALE)):
        own = host.run(bad=BAD)
        zero = host.run(bad=torch.zeros_like(BAD))
    style = {"style": {**host.text("uncond"), "image_prompt": BAD}}
    with emag.guide(host.pipe, Compose("style", (Term(SCALE, "cond", "style"),)), conditions=style):
        made = host.run(bad=torch.zeros_like(BAD))
    assert far(made, own) < 1e-4 < 1e-3 < far(own, zero)
    nothing = {"style": {**host.text("uncond"), "image_prompt": torch.zeros_like(BAD)}}
    with emag.guide(host.pipe, Compose("style", (Term(SCALE, "cond", "style"),)), conditions=nothing):
        assert far(host.run(bad=torch.zeros_like(BAD)), zero) < 1e-4


@HOSTS
def test_an_image_prompt_alone_keeps_the_text_of_its_rows(name):
    host = hosted(name)
    made = []
    for given in ({"image_prompt": OTHER}, {**host.text("cond"), "image_prompt": [OTHER]}, {"image_prompt": BAD}):
        with emag.guide(host.pipe, emag.Negative(2.0), conditions={"negative": given}) as run:
            made.append(host.run())
        assert run.stats.evaluations == run.stats.planned
    assert far(made[1], made[0]) < 1e-5 and far(made[2], made[0]) > 1e-4
    assert far(host.run(), made[0]) > 1e-3


@HOSTS
def test_the_calls_own_picture_changes_nothing_and_is_said(name):
    host = hosted(name)
    with pytest.raises(NoEffect), emag.guide(host.pipe, emag.Negative(2.0), conditions={"negative": {"image_prompt": GOOD}}):
        host.run()


@HOSTS
def test_images_do_not_depend_on_their_batch(name):
    host = hosted(name)
    with emag.guide(host.pipe, emag.Negative(2.0), conditions={"negative": {"image_prompt": OTHER}}):
        together = host.run(seeds=(8, 9))
        assert far(host.run(seeds=(9,)), together[1:]) < 3e-4


def test_pictures_are_embedded_by_the_pipeline():
    host = hosted("sd")
    host.pipe.encode_image = lambda image, *more: (torch.full((1, 6), image.getpixel((0, 0)) / 255), None)
    grey, light = (Image.new("L", (4, 4), level) for level in (51, 204))
    network = read_network(host.pipe.unet)
    found = encode_condition({"image_prompt": grey}, host_of(host.pipe), host.pipe, network)
    assert list(found) == ["added_cond_kwargs.image_embeds"]
    torch.testing.assert_close(found["added_cond_kwargs.image_embeds"][0], torch.full((1, 1, 6), 0.2))
    made = []
    for given in (light, torch.full((1, 1, 6), 0.8)):
        with emag.guide(host.pipe, emag.Negative(2.0), conditions={"negative": {"image_prompt": given}}):
            made.append(host.run())
    assert torch.equal(*made)


@pytest.mark.parametrize(("name", "given", "kind", "words"), [
    ("sd3", {"image_prompt": OTHER}, BadValue, "needs an adapter"),
    ("dit", {"image_prompt": OTHER}, Unsupported, "takes no image prompt"),
    ("adapter", {"image_prompt": "a.png"}, BadValue, "is a PIL image"),
    ("adapter", {"image_prompt": OTHER[0]}, BadValue, "is a PIL image"),
    ("adapter", {"image_prompt": []}, BadValue, "is a PIL image"),
    ("adapter", {"image_prompt": torch.zeros(3, 1, 6)}, BadValue, "wrong number of rows"),
    ("adapter", {"image": OTHER}, BadValue, "has no condition argument image"),
    ("adapter", {}, BadValue, "none given"),
])
def test_what_is_refused(name, given, kind, words):
    case = CASES["sd3" if name == "adapter" else name]
    pipe = with_sd3_adapter(case.pipe()) if name == "adapter" else case.pipe()
    more = {"ip_adapter_image_embeds": torch.cat([BAD, GOOD])} if name == "adapter" else {}
    with pytest.raises(kind, match=words), emag.guide(pipe, emag.Negative(2.0), conditions={"negative": given}):
        case.run(pipe, **more)
