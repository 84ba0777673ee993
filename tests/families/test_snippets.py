"""The five lines of docs/models.md, run as they stand, on small networks in the place of the pretrained ones."""

import functools
import sys

import diffusers
import pytest
import torch

import emag
from emag.families import BACKBONES, EXAMPLES, HOSTS
from emag.hosts.lookup import denoisers, host_of
from emag.testing.cases import every
from present import ABSENT

CASES = every()
HERE = [one for one in EXAMPLES if one.pipeline in dir(diffusers) and one.small in CASES]
"""Those whose pipeline the installed diffusers has, with the packages that it wants."""

GIVEN = {"poses": "pose_video", "faces": "face_video", "face": "id_cond", "features": "id_vit_hidden", "edges": "controls"}
"""What the lines call the things that a person has, and the argument that they are."""
SHORT = 5
"""Frames that pipelines of small and of ordinary settings make in one part."""


def prompted(pipe, case):
    """The small pipeline, whose text is that of its case whatever prompt it gets: it has no text encoders."""
    cls = type(pipe)
    text = {k: v for k, v in case.call((8,)).items() if k not in ("guidance_scale", "true_cfg_scale", "height", "width")}

    @functools.wraps(cls.__call__)
    def call(self, *prompt, **given):
        kept = {k: v for k, v in given.items() if k not in ("prompt", "negative_prompt", "class_labels", "image")}
        sizes = {k: v for k, v in case.call((8,)).items() if k in ("height", "width")}
        return cls.__call__(self, **{**sizes, **text, **kept})

    pipe.__class__ = type(cls.__name__, (cls,), {"__call__": call})
    return pipe


@pytest.mark.parametrize("model", HERE, ids=lambda m: m.title)
def test_the_five_lines_work_as_they_stand(model, monkeypatch, capsys):
    case, asked = CASES[model.small], []
    pipe = prompted(case.pipe(), case)
    monkeypatch.setattr(emag, "load", lambda name: asked.append(name) or pipe)
    own = case.call((8,))
    names = {"photo": None, **{name: own[at][:SHORT] for name, at in GIVEN.items() if at in own}}
    exec(model.lines, names)
    assert asked == [model.name] and len(model.lines.splitlines()) == 5
    assert torch.as_tensor(names[model.output]).isfinite().all() if isinstance(names[model.output], torch.Tensor) else True
    stats = names["run"].stats
    assert stats.evaluations == stats.planned > stats.clean and "emag run" in capsys.readouterr().out
    assert host_of(pipe).name == model.pipeline


def test_every_network_and_every_text_pipeline_has_its_lines():
    shown = {type(denoisers(pipe, host_of(pipe))[0]).__name__ for pipe in (CASES[m.small].pipe() for m in HERE)}
    assert shown == set(BACKBONES) - ABSENT
    assert {m.pipeline for m in EXAMPLES} <= set(HOSTS) and sys.modules["emag"] is emag
