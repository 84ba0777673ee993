"""Folders of images that no run made: what is measured, what captions they have, and that nothing is written there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emag.errors import BadValue
from emag.lab.evaluate.metrics import features, frechet, measure, plain, reference
from emag.lab.evaluate.metrics.extractors.embedded import Random
from emag.lab.evaluate.metrics.plain import PlainFolder
from shell import emag


def pictures(n, seed=0, h=32, w=32):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)


def filled(folder, names, seed=0, **size):
    for name, pixels in zip(names, pictures(len(names), seed, **size)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def names_of(folder):
    return sorted(os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)


def pictures_of(folder):
    return [path for path in names_of(folder) if path[-3:].lower() in ("png", "bmp") and "/." not in path]


@pytest.fixture
def made(tmp_path):
    """Twenty-four images in two subfolders, and what is none beside them."""
    folder = filled(tmp_path / "made", [f"{kind}/{at:02d}.{end}" for kind in ("frog", "ship")
                                        for at, end in enumerate(["png"] * 10 + ["PNG", "bmp"])])
    for name in ("notes.txt", ".hidden.png", ".git/a.png", "frog/Thumbs.db"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not an image")
    return folder


def test_the_commands_on_plain_folders(made, tmp_path, monkeypatch, capsys):
    """`emag reference` and `emag metrics` give the statistics of these pixels, and write nothing into the folders."""
    real = filled(tmp_path / "real", [f"{at}.png" for at in range(40)], seed=1)
    before = names_of(made), names_of(real)
    code, said, error = emag(monkeypatch, capsys, "reference", tmp_path / "a.npz", "--data", real, "--extractor", "random")
    assert code == 0 and "40 images, 64 channels" in " ".join(said.split()), error
    code, said, error = emag(monkeypatch, capsys, "metrics", made, "--reference", tmp_path / "a.npz", "--metrics",
                             "random-fd,random-prdc,random-kid,contrast,accuracy", "--json")
    assert code == 0, error
    found = {one["metric"]: one for one in json.loads(said)}
    x, y = (Random()(pixels, [])["features"] for pixels in (pictures(24), pictures(40, 1)))
    in_order = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in pictures_of(made)])
    assert np.array_equal(in_order, pictures(24))
    assert found["random-fd"]["value"] == pytest.approx(frechet.distance(frechet.moments(y), frechet.moments(x)), rel=1e-4)
    assert {one["n"] for one in found.values()} == {24} and {one["recipe"] for one in found.values()} == {"made"}
    assert 0 <= found["accuracy"]["value"] <= 1
    assert (names_of(made), names_of(real)) == before
    code, said, _ = emag(monkeypatch, capsys, "metrics", made, "--metrics", "pixels")
    assert code == 0 and "saturation" in said and names_of(made) == before[0]


def test_images_of_several_sizes_are_measured_as_each_alone(tmp_path):
    folder = PlainFolder(filled(tmp_path, ["a.png", "b.png"]) and filled(tmp_path, ["c.jpg", "d.png"], 1, h=40, w=64)
                         and filled(tmp_path, ["e.png"], 2))
    [name] = folder.recipes()
    batches = list(folder.images(name))
    assert [batch.shape for batch in batches] == [(2, 32, 32, 3), (2, 40, 64, 3), (1, 32, 32, 3)]
    found = features.features(features.Images.of(folder, name), Random())["features"]
    alone = np.concatenate([Random()(one[None], [""])["features"] for batch in batches for one in batch])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert sum(map(len, folder.images(name, batch=2, limit=4))) == 4


def test_the_class_is_the_subfolder(made):
    columns = PlainFolder(made).index("made")
    assert columns["class"].to_pylist() == ["frog"] * 12 + ["ship"] * 12
    assert set(columns["prompt"].to_pylist()) == {None}


@pytest.mark.parametrize("way", ["beside", "metadata.jsonl", "metadata.csv"])
def test_captions(made, way):
    (made / "notes.txt").unlink()
    files = [os.path.relpath(path, made) for path in pictures_of(made)]
    texts = {name: f'a "{at}", of {name}' for at, name in enumerate(files)}
    if way == "beside":
        for name, text in texts.items():
            (made / name).with_suffix(".txt").write_text(text + "\n")
    elif way == "metadata.jsonl":
        rows = ({"file_name": name, "text": text} for name, text in texts.items())
        (made / way).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        quoted = (f'"{name}","{text.replace(chr(34), chr(34) * 2)}"\n' for name, text in reversed(texts.items()))
        (made / way).write_text("file_name,caption\n" + "".join(quoted))
    assert PlainFolder(made).index("made")["prompt"].to_pylist() == list(texts.values())


def test_what_captions_are_refused(made):
    def read():
        return PlainFolder(made).index("made")

    (made / "frog" / "03.txt").write_text("a frog")
    with pytest.raises(BadValue, match=r"23 of 24 images .* have no caption, first frog/00\.png"):
        read()
    (made / "frog" / "03.txt").write_text("a frog\nin two lines\n")
    with pytest.raises(BadValue, match=r"03\.txt has 2 lines"):
        read()
    (made / "metadata.jsonl").write_text('{"text": "a frog"}\n')
    with pytest.raises(BadValue, match=r"line 1 of .*metadata\.jsonl has no file_name"):
        read()
    (made / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(BadValue, match="keep one"):
        read()


def test_metrics_that_read_captions_are_refused_without(made, monkeypatch):
    class Words(Random):
        def __call__(self, images, texts):
            return {"score": np.array([float(len(text)) for text in texts])}

    monkeypatch.setitem(measure.EXTRACTORS, "hps2.1", lambda device: Words())
    plan = measure.plan(["hps2.1", "hps2.1-median"])
    with pytest.raises(BadValue, match=r"hps2.1, hps2.1-median reads what the images should show.*metadata\.jsonl"):
        measure.measure(PlainFolder(made), plan)
    for path in map(Path, pictures_of(made)):
        path.with_suffix(".txt").write_text("frog")
    assert [one.value for one in measure.measure(PlainFolder(made), plan)] == [4, 4]


def test_what_is_no_folder_of_images_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    for place, says in (("empty", "has no image"), ("none", "is no run folder"), ("file.png", "is no run folder")):
        (tmp_path / "file.png").write_bytes(b"x")
        code, _, error = emag(monkeypatch, capsys, "metrics", tmp_path / place, "--metrics", "contrast")
        assert code == 2 and says in error and error.count("\n") == 1
    filled(tmp_path / "deep", ["a.png", "b.png"])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep" / "c.png")
    with pytest.raises(BadValue, match=r"c\.png as an image: its pixels are of mode I;16"):
        measure.measure(plain.folder_of(str(tmp_path / "deep")), measure.plan(["contrast"]))
    with pytest.raises(BadValue, match="without --size"):
        reference.of_data(tmp_path / "deep", Random(), 32)
