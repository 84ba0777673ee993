"""Entries read from networks that no family has: equal to what people wrote, proven, and refused where they are wrong."""

import json
from dataclasses import replace

import diffusers
import pytest
import torch

from emag.errors import BadValue
from emag.families import BACKBONES, Stack
from emag.lab.doctor.unknown.changes import broken, changes, untold
from emag.lab.doctor.unknown.guess import guess, guesses, unserved
from emag.lab.doctor.unknown.proving import proven
from emag.lab.doctor.unknown.reading import read_entry
from emag.lab.doctor.unknown.shrinking import smallest
from emag.lab.doctor.unknown.unreadable import Unreadable

pytestmark = pytest.mark.sampled(2)

READ = ("stacks", "sample", "text", "timestep", "time_modules", "kwargs", "placed", "skips", "in_place", "grid_ids",
        "channel_dim")
"""What a network tells of itself; the rest of an entry is known from its pipelines alone."""

SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [
    "CogView3PlusTransformer2DModel", "SD3Transformer2DModel", pytest.param("ErnieImageTransformer2DModel", marks=SLOW),
    pytest.param("BriaTransformer2DModel", marks=SLOW)])
def test_a_hidden_entry_is_found_again(name, monkeypatch):
    ours = BACKBONES[name]
    monkeypatch.delitem(BACKBONES, name)
    assert name in unserved()
    found = guess(name)
    assert found.reason == ""
    assert {field: getattr(found.entry, field) for field in READ} == {field: getattr(ours, field) for field in READ}
    assert {*found.entry.per_row} == {*ours.per_row} and {*found.entry.condition} == {*ours.condition}
    # the file is one of families/, and says the same
    made: dict = {}
    exec(found.file.replace("from .records", "from emag.families.records"), made)
    assert made["FAMILY"].networks == (found.entry,) and name not in BACKBONES


@pytest.fixture(scope="module")
def sd3():
    made = smallest(diffusers.SD3Transformer2DModel)
    return made, read_entry(made)


def stack(entry, **changed):
    return replace(entry, stacks=(replace(entry.stacks[0], **changed),))


WRONG = {
    "the order of what is returned": lambda one: stack(one, returns=one.stacks[0].returns[::-1]),
    "the place of the image": lambda one: stack(one, tokens=("text", "image")),
    "no text in the attention": lambda one: stack(one, tokens=("image",)),
    "another attention": lambda one: stack(one, attention="ff"),
    "a stream that is none": lambda one: stack(one, streams=("hidden_states", "temb")),
    "a row that is not declared": lambda one: replace(one, per_row=one.per_row[:2]),
    "no such list": lambda one: replace(one, stacks=(Stack("blocks", "attn", ("x",), ("x",), ("image",)),)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_entry_is_refused(sd3, wrong):
    made, entry = sd3
    with pytest.raises(Unreadable):
        proven(made, wrong(entry))


class Carrying(diffusers.SD3Transformer2DModel):
    """What the first block gave is read again behind the last one."""

    def forward(self, *args, **kwargs):
        kept = []
        first = self.transformer_blocks[0].register_forward_hook(lambda module, given, out: kept.append(out[1]))
        last = self.norm_out.register_forward_pre_hook(lambda module, given: (given[0] + 2 * kept[-1], *given[1:]))
        try:
            return super().forward(*args, **kwargs)
        finally:
            first.remove()
            last.remove()


def test_what_later_parts_read_of_earlier_blocks_is_no_entry(monkeypatch):
    """Resumed behind the first block, what it gave on the clean pass is missing: never handed out as it is."""
    monkeypatch.setattr(diffusers, "CarryingTransformer2DModel", Carrying, raising=False)
    found = guess("CarryingTransformer2DModel")
    assert found.entry is None or found.entry.skips


def test_why_there_is_none(monkeypatch):
    class LinearTransformer2DModel(diffusers.ModelMixin, diffusers.ConfigMixin):
        config_name = "config.json"

        @diffusers.configuration_utils.register_to_config
        def __init__(self, in_channels: int = 4, num_layers: int = 4):
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(in_channels, in_channels, 1) for _ in range(num_layers))

        def forward(self, hidden_states, timestep):
            for block in self.blocks:
                hidden_states = block(hidden_states) + timestep[:, None, None, None]
            return hidden_states

    monkeypatch.setattr(diffusers, "LinearTransformer2DModel", LinearTransformer2DModel, raising=False)
    assert "no list of blocks that each make a fused attention call" in guess("LinearTransformer2DModel").reason
    assert "prior_token_id" in guess("GlmImageTransformer2DModel").reason or "GlmImageTransformer2DModel" in BACKBONES


def test_a_name_that_is_no_network():
    with pytest.raises(BadValue, match="no network FluxPipeline"):
        next(guesses(["FluxPipeline"]))


def test_the_command_prints_the_file_and_keeps_nothing(monkeypatch, run):
    name = "CogView3PlusTransformer2DModel"
    monkeypatch.delitem(BACKBONES, name)
    code, text, said = run("doctor", "--unknown", name)
    assert code == 0 and 'Host("CogView3PlusPipeline"' in text and "1 of 1 read and proven" in said
    assert name not in BACKBONES
    code, text, _ = run("doctor", "--unknown", "DreamLiteTransformer2DModel", "--json")
    assert code == 0 and not json.loads(text)[0]["proven"]


def test_what_another_release_changes(monkeypatch):
    old = [{"network": name, "proven": False, "reason": "", "file": ""} for name in ("Gone", "Same", "Better")]
    new = [{**old[1]}, {**old[2], "proven": True, "file": "FAMILY"}, {**old[0], "network": "New", "reason": "why"}]
    said = list(changes(old, new))
    assert [line.partition(":")[0] for line in said if line.startswith("-")] == ["- Better", "- Gone", "- New"]
    assert "FAMILY" in said[1] and said[-1].endswith("no entry: why")
    assert list(broken()) == [] or not diffusers.__version__.startswith("0.42")
    monkeypatch.setattr(diffusers, "SD3Transformer2DModel", None)
    assert "- SD3Transformer2DModel: diffusers has it no longer" in list(broken())


def test_classes_of_which_nothing_is_written_are_told(monkeypatch):
    assert list(untold()) == [] or not diffusers.__version__.startswith("0.42")
    before = len(list(untold()))
    monkeypatch.setattr(diffusers, "NewPipeline", type("NewPipeline", (diffusers.DiffusionPipeline,), {}), raising=False)
    found = list(untold())
    assert len(found) == before + 1 and any(line.startswith("- NewPipeline: a pipeline of which nothing") for line in found)
