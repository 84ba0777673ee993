"""What several tests of the lab start from: the command line, a model that is loaded once, a finished run, a small CLIP."""

import pytest
import torch

from emag.hosts import load as library
from emag.lab.evaluate import run as running
from emag.lab.evaluate.metrics.extractors import towers
from extracting import words
from running import made
from shell import run  # noqa: F401


@pytest.fixture(scope="module")
def pipe():
    loaded = library.load("tiny", device="cpu")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def loaded(request, monkeypatch):
    """The model is loaded once for all runs of a file, where a test asks for no other."""
    if "pipe" in request.fixturenames:
        monkeypatch.setattr(running, "open_model", lambda model, device=None: request.getfixturevalue("pipe"))


@pytest.fixture(scope="module")
def finished(pipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "open_model", lambda model, device=None: pipe)
        return made(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def clip():
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    net = CLIPModel(CLIPConfig(text_config={**layers, "vocab_size": 31, "bos_token_id": 1, "eos_token_id": 30},
                               vision_config={**layers, "image_size": 16, "patch_size": 8}, projection_dim=12)).eval()
    tower = towers.Clip()
    tower.__dict__["loaded"] = (net, words)
    return tower
