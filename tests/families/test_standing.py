"""Every class of the installed diffusers stands somewhere: in a family, or among those that none has, with the reason."""

from collections import Counter

import diffusers
import pytest
import torch

import emag
from emag.errors import Unsupported
from emag.families import BACKBONES, HOSTS, unserved
from emag.hosts.lookup import host_of
from emag.lab.pages import classes
from emag.lab.pages.standing import standing
from emag.testing.cases import every
from emag.testing.small_separate import FURTHER
from spy import denoiser_of

FOUND = list(standing())
LISTED = [name for table in (unserved.NEEDS, unserved.NOTHING) for names in table.values() for name in names]


def test_no_class_is_silently_missing():
    assert [one.name for one in FOUND if one.status == "unknown"] == []
    exported = {name for name in dir(diffusers) if isinstance(getattr(diffusers, name), type)}
    pipelines = {name for name in exported if issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline)}
    networks = {name for name in exported if issubclass(getattr(diffusers, name), torch.nn.Module)}
    assert pipelines - {one.name for one in FOUND if one.kind == "pipeline"} == {"DiffusionPipeline"}
    assert networks == {one.name for one in FOUND if one.kind == "network"}


def test_a_class_stands_in_one_place():
    assert [name for name, count in Counter(LISTED).items() if count > 1] == []
    assert {*LISTED} & {*HOSTS, *BACKBONES} == set()
    if diffusers.__version__.startswith("0.42"):
        assert {*LISTED} <= {one.name for one in FOUND}


@pytest.mark.slow
def test_what_is_served_is_tried():
    """Every network and every pipeline of a family has a small one."""
    pipes = [case.pipe() for case in (every() | FURTHER).values()]
    tried = {host_of(pipe).name for pipe in pipes}
    assert {type(denoiser_of(pipe)).__name__ for pipe in pipes} == {
        one.name for one in FOUND if one.kind == "network" and one.status == "yes"}
    # a class that wants a package that is not here is a stand-in, which cannot be made
    here = {one.name for one in FOUND if "dummy" not in getattr(diffusers, one.name).__module__}
    assert {one.name for one in FOUND if one.kind == "pipeline" and one.status == "yes"} & here <= tried


def test_a_class_of_the_list_is_refused_with_its_reason():
    class Ideogram4Pipeline:
        pass

    class Ideogram4Transformer2DModel(torch.nn.Module):
        pass

    for thing, read in ((Ideogram4Pipeline(), host_of), (Ideogram4Transformer2DModel(), emag.engine.reading.read_network)):
        with pytest.raises(Unsupported, match="needs a sequence that begins with padding"):
            read(thing)


def test_a_class_that_is_new_is_seen(monkeypatch):
    monkeypatch.setattr(diffusers, "NewPipeline", type("NewPipeline", (diffusers.DiffusionPipeline,), {}), raising=False)
    new = next(one for one in standing() if one.name == "NewPipeline")
    assert new.status == "unknown" and "| NewPipeline | unknown | no family has it" in classes.markdown()
