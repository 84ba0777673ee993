"""What cannot work with reference images, and which pipelines are served."""

import re
from pathlib import Path

import diffusers
import pytest

import emag
from editing import EMAG, MORE, REFERENCES, cases
from emag.families import HOSTS
from emag.hosts.lookup import host_of
from emag.methods import METHODS as C
from spy import changes, snapshot

# what cannot work


@cases([name for name in REFERENCES if name.startswith(("qwen-edit", "longcat"))])
def test_texts_that_go_with_a_picture_are_refused(case):
    pipe = case.pipe()
    before = snapshot(pipe)
    with pytest.raises(emag.Unsupported, match="with a picture"), emag.guide(pipe, C["negative"](1.5, negative="prompt:a")):
        case.run(pipe)
    assert changes(before, snapshot(pipe), own=False) == []


def test_cached_references_are_refused():
    case = MORE["klein-kv"]
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match="kept from the first step"), emag.guide(pipe, EMAG()):
        case.run(pipe, image=[object()])


NETWORKS = ("SD3", "Flux", "Flux2", "QwenImage", "Chroma", "LongCatImage", "PixArt", "Sana", "AuraFlow", "CogView4", "DiT")
OUTSIDE = {
    "VisualClozeGenerationPipeline", "VisualClozePipeline"}  # rows of pictures of several sizes, all in the making


def of_our_networks():
    """Names of the pipelines in the installed diffusers whose network is one of ours."""
    network = re.compile(rf"\btransformer: .*\b(?:(?:{'|'.join(NETWORKS)})Transformer2DModel|HunyuanDiT2DModel)\b")
    name = re.compile(r"^class (\w+Pipeline)\(", re.MULTILINE)
    found = set()
    for path in (Path(diffusers.__file__).parent / "pipelines").rglob("pipeline_*.py"):
        text = path.read_text(encoding="utf-8")
        if network.search(text):
            found |= set(name.findall(text))
    return found


@pytest.mark.skipif(not diffusers.__version__.startswith("0.42."), reason="lists the pipelines of diffusers 0.42")
def test_every_pipeline_of_our_image_networks_is_served_or_known_not_to_be():
    found = of_our_networks()
    assert len(found) > 50 and found - set(HOSTS) == OUTSIDE


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_others_are_refused(name):
    with pytest.raises(emag.Unsupported, match="not a supported pipeline"):
        host_of(object.__new__(getattr(diffusers, name)))
