"""PNGs carry their record; `run.save` writes them."""

import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

import emag
from emag.records import png as images
from tiny import flux, flux_call, generators, sd3, sd3_call

context = multiprocessing.get_context("fork")


def saved(tmp_path, output_type="pil", **more):
    pipe = sd3()
    with emag.guide(pipe, emag.EMAG(1.5, layers=(1, 2))) as run:
        out = pipe(**sd3_call(output_type=output_type, **more))
    return run, run.save(out.images, tmp_path / "new" / "folder")


def test_save_writes_one_png_per_image_with_its_row(tmp_path):
    run, paths = saved(tmp_path)
    records = [images.read_record(path) for path in paths]
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
    assert "generator" in images.read_record(paths[0])["unrecorded"]


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
    def fail(image, draft, **kwargs):
        draft.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(emag.BadValue, match="disk full"):
        images.write(picture(0), tmp_path / "x.png", {})
    with pytest.raises(emag.BadValue, match="disk full"):
        images.save([picture(0)], tmp_path, RECORD)
    assert not list(tmp_path.iterdir())


RECORD = {"model": {"model": "tiny", "dtype": "float32", "revision": None, "lora": None}, "rules": [],
          "call": {"prompt": "frog"}, "seeds": 8, "unrecorded": [], "versions": {}}


def picture(value):
    return Image.fromarray(np.full((4, 4, 3), value, "uint8"))


def test_a_picture_never_replaces_another(tmp_path):
    """Under one record two pictures have two files, the same one has one, and what is no picture of ours stays."""
    first, second = (images.save([picture(value)], tmp_path, RECORD)[0] for value in (1, 2))
    assert first != second and second.name == f"{first.stem}-2.png"
    assert images.save([picture(1)], tmp_path, RECORD) == [first] and images.save([picture(2)], tmp_path, RECORD) == [second]
    assert [images.read_image(path).getpixel((0, 0)) for path in (first, second)] == [(1, 1, 1), (2, 2, 2)]
    first.write_bytes(first.read_bytes()[:50])
    third = images.save([picture(1)], tmp_path, RECORD)[0]
    assert third.name == f"{first.stem}-3.png" and first.stat().st_size == 50
    assert images.saved(tmp_path, {**RECORD, "row": 0}) == second
    assert images.saved(tmp_path, {**RECORD, "row": 0, "seeds": 9}) is None
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (first, second, third)}
    images.write(picture(1), first, {**RECORD, "row": 0, "device": "another"})  # the same pixels under another record
    assert images.save([picture(1)], tmp_path, RECORD) == [third] and images.read_record(first)["device"] == "another"


def test_two_processes_that_write_one_picture_leave_one_whole_file(tmp_path):
    one, *others = [context.Process(target=images.save, args=([picture(7)] * 20, tmp_path, RECORD)) for _ in range(3)]
    for process in (one, *others):
        process.start()
    for process in (one, *others):
        process.join()
        assert process.exitcode == 0
    made = sorted(tmp_path.iterdir())
    assert len(made) == 20 and [images.read_record(path)["row"] for path in made] == list(range(20))


@pytest.mark.parametrize(("prompt", "slug"), [
    ("A photo of a Frog!", "a-photo-of-a-frog"), ("", "unconditional"), ("  ", "unconditional"), ("?!", "prompt"),
    ("\N{FROG FACE}", "prompt"), ("一只青蛙的照片", "一只青蛙的照片"), ("Лягушка на камне", "лягушка-на-камне"),
    ("カエル", "カエル"),     ("एक मेंढक", "एक-मेंढक"), ("صورة ضفدع", "صورة-ضفدع"), ("CAFÉ", "café"), ("cafe\u0301", "café"),
    ("../../etc/passwd", "etc-passwd"),
    ("a\u202eb\x00c\nd:e\\f", "a-b-c-d-e-f"), ("CON", "con"), ("\udce9", "prompt")])
def test_the_prompt_in_a_file_name(prompt, slug, tmp_path):
    assert images.slug(prompt) == slug
    path = images.save([picture(0)], tmp_path, {**RECORD, "call": {"prompt": prompt if "\udce9" not in prompt else "?"}})[0]
    assert path.parent == tmp_path and path.is_file()


@pytest.mark.parametrize("letter", ["a", "é", "青", "\U00020000", "ф "])
def test_long_prompts_fit_every_file_system(letter, tmp_path):
    path = images.save([picture(0)], tmp_path, {**RECORD, "call": {"prompt": letter * 5000}, "seeds": 2**64 - 1})[0]
    assert len(path.name.encode()) < 143 and letter.strip() in path.name  # eCryptfs takes no more
