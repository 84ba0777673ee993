"""Files of an evaluation, damaged or hostile: every reader answers with a value or with one line, and soon."""

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import emag as library
from damage import answer, harmed
from emag.errors import BadValue, EmagError
from emag.lab.evaluate import protocol
from emag.lab.evaluate import run as running
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics import features, measure, plain, reference, stored
from emag.lab.evaluate.metrics.extractors.embedded import Random
from emag.lab.evaluate.pictures import read_rgb
from emag.lab.evaluate.prompts import read_prompts
from emag.lab.evaluate.report import votes
from emag.lab.evaluate.report.page import page
from emag.lab.evaluate.report.votes import Vote
from emag.lab.evaluate.results.as_json import read as read_results
from emag.lab.evaluate.results.collect import collect
from emag.lab.evaluate.spec import parse, read_spec
from emag.lab.evaluate.sweep.spec import read_sweep
from emag.lab.evaluate.verify import repair, verify
from shell import emag

SPEC = {"model": "tiny", "classes": ["frog", "ship"], "images": 4, "steps": 2, "batch_size": 2, "seed": 3,
        "recipes": {"cfg": {"guidance_scale": 2.5}, "pag": {"rules": [{"pag": {"scale": 1.5}}]}}}
SWEEP = {**SPEC, "recipes": {"cfg": {"guidance_scale": {"grid": [1, 2.5]}}},
         "sweep": {"trials": 2, "objectives": ["random-fd", "accuracy"], "select": "accuracy", "reference": "known.npz"}}
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "tiny.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A measured run with votes, and inputs of every kind beside it."""
    root = tmp_path_factory.mktemp("inputs")
    pipe = library.load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "open_model", lambda model, device=None: pipe)
        run = running.run(parse(SPEC), str(root / "run"))
    stored.add(run, measure.measure(run, measure.plan(["random-diversity", "contrast"]), against=["cfg"]))
    for number in range(3):
        votes.append(run.storage, "ann", Vote(number, "cfg", "pag", "left"))
    (root / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    (root / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    pq.write_table(pa.table({"prompt": ["a frog", "a ship"], "tag": ["x", "y"]}), root / "prompts.parquet")
    reference.write(root / "known.npz", np.random.default_rng(0).standard_normal((12, 64)), Random().version)
    coco = {"annotations": [{"image_id": at, "caption": f"a frog {at}"} for at in range(5)]}
    (root / "captions.json").write_text(json.dumps(coco))
    for end in ("png", "jpg", "webp", "bmp"):
        (root / end).mkdir()
        for at in range(3):
            run.image("cfg", at).save(root / end / f"{at}.{end}")
    return root


def in_run(name, read):
    """A reader of a file of the run folder."""
    return f"run/{name}", lambda root: read(RunFolder(str(root / "run")))


def kept_features(run):
    return features.features(features.Images.of(run, "cfg"), Random())


def pictures_in(end):
    name = f"1.{end}"
    return f"{end}/{name}", lambda root: list(plain.PlainFolder(root / end).images(end))


READERS = {
    "run.json": in_run("run.json", lambda run: (run.index(), verify(run))),
    "prompts of a run": in_run("prompts.parquet", lambda run: (verify(run), run.index())[0]),
    "a part of the index": in_run("index/cfg/000002.parquet", lambda run: (verify(run), run.index("cfg"))[0]),
    "an image of a run": in_run("images/cfg/000001.png", lambda run: (verify(run), list(run.images("cfg")))[0]),
    "the report": in_run("index/pag/000000.parquet", page),
    "metrics.json": in_run("metrics.json", lambda run: (stored.read(run), collect([run.url]))),
    "votes": in_run("votes/ann.jsonl", lambda run: votes.tallies(run.storage)),
    "kept features": in_run(f"features/{Random().version}/cfg.npz", kept_features),
    "a spec": ("spec.yaml", lambda root: read_spec(root / "spec.yaml")),
    "a sweep": ("sweep.yaml", lambda root: read_sweep(root / "sweep.yaml")),
    "parquet prompts": ("prompts.parquet", lambda root: read_prompts(str(root / "prompts.parquet"))),
    "reference statistics": ("known.npz", lambda root: measure.plan(["random-fd", "random-kid"],
                                                                    reference.read(root / "known.npz"))),
    "captions": ("captions.json", lambda root: protocol.read_captions(str(root / "captions.json"), 3)),
    **{f"plain {end}": pictures_in(end) for end in ("png", "jpg", "webp", "bmp")},
}


def damaged(root, name, seeds):
    file, read = READERS[name]
    path = root / file
    data, wrong = path.read_bytes(), []
    assert answer(read, root) != "1 line"
    try:
        for seed in seeds:
            path.write_bytes(harmed(data, f"{name} {seed}"))
            found = answer(read, root)
            wrong += [(seed, found)] if isinstance(found, str) and found.startswith("no short") else []
    finally:
        path.write_bytes(data)
    assert not wrong


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(whole, name):
    damaged(whole, name, range(12))


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused(whole, name):
    damaged(whole, name, range(12, 1500))


def test_damaged_results_are_read_or_refused(tmp_path):
    data = RESULTS.read_bytes()
    for seed in range(20):
        (tmp_path / "a.json").write_bytes(harmed(data, seed))
        assert not str(answer(read_results, tmp_path / "a.json")).startswith("no short")


# bombs: a few bytes that would fill the memory, or have no end


def laughs(levels=9):
    """Lists of nine times the list before: 9 ** levels values in a few hundred bytes."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, levels)]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(("text", "says"), [
    (laughs(), "too large"), ("recipes: &a [*a]", "without end"), ("recipes: &a {b: *a}", "without end"),
    ("[" * 5000, "too deep"), ("[" * 60 + "]" * 60, "too deep"), ("a: " * 3 + "&", "not valid YAML"),
    ("recipes: 2020-99-99", "not valid YAML"), ("recipes: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ("recipes: {a: &a {guidance_scale: 2}, b: *a}\nclasses: [frog]", None)])
def test_yaml_that_grows(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    for read in (read_spec, read_sweep):
        if says is None and read is read_spec:
            assert [one.scale for one in read(tmp_path / "a.yaml").recipes] == [2, 2]
            continue
        with pytest.raises(BadValue, match=says or "sweep") as error:
            read(tmp_path / "a.yaml")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


def png_of(width, height):
    """A PNG that says it has so many pixels; its data is zeros."""
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(1 << 14, 1 << 14), (1 << 20, 1 << 20), (0, 5), ((1 << 31) - 1, 1)])
def test_images_of_too_many_pixels(width, height):
    with pytest.raises(BadValue, match="cannot read it as an image"):
        read_rgb(png_of(width, height), "it")


def test_other_formats_and_depths_than_were_asked_for():
    def data(image, kind):
        sink = io.BytesIO()
        image.save(sink, kind)
        return sink.getvalue()

    small = Image.new("RGB", (4, 4))
    assert read_rgb(data(small, "PNG"), "it").size == (4, 4)
    others = [data(small, kind) for kind in ("GIF", "TIFF", "JPEG", "BMP")]
    for one in (*others, data(Image.new("I;16", (4, 4)), "PNG"), b"", b"x"):
        with pytest.raises(BadValue, match="cannot read it as an image") as error:
            read_rgb(one, "it")
        assert "BytesIO" not in str(error.value)


def test_the_commands_answer_in_one_line(whole, tmp_path, monkeypatch, capsys):
    """Exit code 2, and the name of the file that was at fault."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mu.npy", bytes(1 << 27))
    bad = {"a.npz": bomb.getvalue(), "cut.npz": (whole / "known.npz").read_bytes()[:3000], "a.yaml": laughs().encode(),
           "deep.json": b"[" * 100_000, "deep.jsonl": b'{"a":' * 100_000}
    for name, text in bad.items():
        (tmp_path / name).write_bytes(text)
    run = whole / "run"
    for command, named in ((("metrics", run, "--metrics", "random-fd", "--reference", tmp_path / "a.npz"), "a.npz"),
                           (("metrics", run, "--metrics", "random-fd", "--reference", tmp_path / "cut.npz"), "cut.npz"),
                           (("run", tmp_path / "a.yaml"), "a.yaml"), (("sweep", tmp_path / "a.yaml"), "a.yaml"),
                           (("results", tmp_path / "deep.json", "-o", tmp_path / "a.md"), "deep.json"),
                           (("generate", "--prompts", tmp_path / "deep.jsonl", "-o", tmp_path / "out"), "deep.jsonl"),
                           (("generate", "--prompts", tmp_path / "deep.json", "-o", tmp_path / "out"), "deep.json")):
        code, _, error = emag(monkeypatch, capsys, *command)
        assert code == 2 and named in error and error.count("\n") == 1, (command, error)
    assert not (tmp_path / "out").exists() and not (tmp_path / "a.md").exists()


def test_a_hostile_run_folder_leads_nowhere_else(whole, tmp_path):
    """Names of recipes that climb out of the folder, in run.json and in the index."""
    outside = tmp_path / "outside" / "cfg"
    outside.mkdir(parents=True)
    (outside / "000000.png").write_bytes(b"mine")
    data = json.loads((whole / "run" / "run.json").read_text())
    data["spec"]["recipes"] = {"../../outside/cfg": None}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(data))
    (tmp_path / "run" / "prompts.parquet").write_bytes((whole / "run" / "prompts.parquet").read_bytes())
    run = RunFolder(str(tmp_path / "run"))
    with pytest.raises(EmagError, match="names a folder"):
        verify(run)
    assert repair(run, []) == ([], []) and (outside / "000000.png").read_bytes() == b"mine"
