"""A stranger adds a weak method: one file of his own, written from docs/adding-a-method.md, registered from outside.

All laws pass for it, and each way in which it could be wrong is told by the law that it breaks."""

import importlib.util
import sys

import pytest

import emag
from emag.methods import METHODS
from emag.records import recipe
from emag.testing import LawBroken, check, checks

FILE = '''
"""Dulled attention: push away from a network whose attention, in some blocks, gives each token something of the mean."""

from dataclasses import dataclass

import torch

from emag import State
from emag.core import OnLayers
from emag.methods import METHODS
from emag.methods.common.push import Push


@dataclass(frozen=True)
class Dull(OnLayers):
    """The weak branch, on `layers`."""

    share: float = 0.5

    def start(self, sigmas, streams):
        return DullState(self.share)


class DullState(State):
    def __init__(self, share):
        super().__init__()
        self.share = share

    def perturb(self, block, call, sdpa):
        live = sdpa(call.q)  # [batch, heads, tokens, channels]
        out = live.clone()
        image = out[:, :, call.image]
        mean = image.mean(MEAN_OVER, keepdim=True)  # over the image tokens of a sample
        out[:, :, call.image] = torch.lerp(image, mean.expand_as(image), self.share)
        return out


@dataclass(frozen=True)
class Dulled(Push):
    """Dulled attention: push away from a network that sees means.

    Args:
        layers: blocks to perturb, by number.
        share: of the mean in what an image token gets, 0 (off) to 1.
    """

    layers: tuple[int, ...] | None = None
    share: float = 0.5

    name = "dulled"
    paper = "a stranger's"

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.share == 0

    @property
    def perturbation(self):
        return Dull(self.layers, self.share)


METHODS[Dulled.name] = Dulled
'''


@pytest.fixture
def made(tmp_path):
    """Makes the file, changed where asked, imports it as a stranger's module and gives the method."""
    before = dict(METHODS)

    def build(*changes, mean_over="2"):
        text = FILE.replace("MEAN_OVER", mean_over)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "dulled.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("dulled", path)
        sys.modules["dulled"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Dulled

    yield build
    METHODS.clear()
    METHODS.update(before)
    sys.modules.pop("dulled", None)


@pytest.mark.slow
def test_all_laws_pass(made):
    dulled = made()
    subject = dulled(1.3, layers=(1, 2)), dulled(1.0, layers=(1, 2))
    check(*subject)
    held = {law.law.name for law in checks(*subject)}
    assert {"a_recipe_gives_it_back", "an_image_is_the_same_alone", "neutral_is_the_plain_pipeline"} < held


def test_it_works_as_any_other(made, capsys):
    made()
    rule = recipe.parse("dulled=2,layers=1+2,share=0.7")
    pipe = emag.load("tiny", device="cpu")
    with emag.guide(pipe, rule, emag.CFG(3.0)) as run:
        pipe("a frog", num_inference_steps=4)
    assert run.stats.evaluations == run.stats.planned > run.stats.clean and "dulled" in str(run)


BROKEN = {
    "a branch that changes nothing": ([("self.share)\n        return out", "0.0)\n        return out")],
                                      "2", "the_image_changes"),
    "rows that are mixed": ([], "(0, 2)", "an_image_is_the_same_alone"),
    "a memory that outlives the run": ([
        ("def perturb(self", "calls = []\n\n    def perturb(self"),
        ("        live = sdpa(call.q)",
         "        self.calls.append(1)\n        live = sdpa(call.q) * (1 + len(self.calls) / 99)"),
    ], "2", "a_second_run_starts_anew"),
    "noise from torch's generator": ([("        return out\n\n\n@d", "        return out + 1e-9 * torch.randn(1)\n\n\n@d")],
                                     "2", "a_seed_is_its_samples_own"),
    "a scale that is not off at 1": ([("self.scale == 1 or self.share == 0", "False"),
                                      ("    name = ", "    def apply(self, pred, branches, step, state):\n"
                                       "        return super().apply(pred, branches, step, state) * 1.01\n\n    name = ")],
                                     "2", "neutral_is_the_plain_pipeline"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_told_by_its_law(made, fault):
    changes, mean_over, law = BROKEN[fault]
    dulled = made(*changes, mean_over=mean_over)
    told = []
    for one in checks(dulled(1.3, layers=(1, 2)), dulled(1.0, layers=(1, 2)), only=("dit",)):
        try:
            one()
        except LawBroken as error:
            told.append((one.law.name, str(error)))
    assert law in [name for name, _ in told], told
    assert all(text.startswith(f"dulled breaks the law {name} on dit: ") for name, text in told)
