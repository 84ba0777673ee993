"""PNGs carry their record; `run.save` writes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import emag
from emag.records import png as images
from tiny import flux, flux_call, generators, sd3, sd3_call


def saved(tmp_path, output_type="pil", **more):
    pipe = sd3()
    with emag.guide(pipe, emag.EMAG(1.5, layers=(1, 2))) as run:
        out = pipe(**sd3_call(output_type=output_type, **more))
    return run, run.save(out.images, tmp_path / "new" / "folder")


def test_save_writes_one_png_per_image_with_its_row(tmp_path):
    run, paths = saved(tmp_path)
    records = [images.read(path) for path in paths]
    assert [record["row"] for record in records] == [0, 1]
    assert records[0]["seeds"] == [8, 9]
    assert set(records[0]["rules"][0]["emag"]) == {"scale", "layers", "window"}
    assert records[0]["call"]["guidance_scale"] == 4.0
    assert "prompt_embeds" in records[0]["unrecorded"]
    assert {**records[1], "row": 0} == records[0]
    json.dumps(run.record)


def test_arrays_can_be_saved_and_latents_cannot(tmp_path):
    assert len(saved(tmp_path, output_type="np")[1]) == 2
    with pytest.raises(emag.BadValue, match="output_type"):
        saved(tmp_path, output_type="latent")


def test_a_used_generator_is_not_taken_for_its_seed(tmp_path):
    used = generators((8, 9))
    torch.randn(3, generator=used[0])
    _, paths = saved(tmp_path, generator=used)
    assert "generator" in images.read(paths[0])["unrecorded"]


def test_nothing_to_save_before_a_call(tmp_path):
    with emag.guide(sd3(), emag.EMAG(1.5, layers=(1,))) as run:
        assert "none yet" in str(run)
        with pytest.raises(emag.BadValue, match="nothing to save"):
            run.save([], tmp_path)


def test_other_recipes_do_not_overwrite(tmp_path):
    pipe, names = flux(), set()
    for scale in (1.25, 1.5):
        with emag.guide(pipe, emag.EMAG(scale, layers=(1,))) as run:
            out = pipe(**flux_call(output_type="pil"))
        names |= set(run.save(out.images, tmp_path))
    assert len(names) == 4


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        (tmp_path / ".x.png.part").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        images.write(Image.fromarray(np.zeros((4, 4, 3), "uint8")), tmp_path / "x.png", {})
    assert not list(tmp_path.iterdir())
