"""Metrics of runs: kept features, versions, references."""

import io
import json
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emag.errors import BadValue
from emag.lab.evaluate.metrics import features, frechet, measure, prdc, reference, stored
from emag.lab.evaluate.metrics import npz as unpacking
from emag.lab.evaluate.metrics.extractors import EXTRACTORS, base
from emag.lab.evaluate.metrics.extractors.embedded import Random
from emag.lab.evaluate.metrics.table import METRICS, chosen
from extracting import close, pictures
from shell import emag

pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

CLASSES = ["airplane", "ship"]


class Run:
    """The parts of a run folder that metrics read: two recipes of random images."""

    def __init__(self, folder, n=24, size=32):
        from fsspec.implementations.local import LocalFileSystem

        from emag.lab.evaluate.storage import Storage

        self.storage, self.n, self.read = Storage(LocalFileSystem(), str(folder)), n, 0
        self.stored = {name: pictures(seed, n, size, size) for seed, name in enumerate(["cfg", "emag"])}
        self.stored["emag"] = (0.9 * self.stored["cfg"] + 0.1 * self.stored["emag"]).astype(np.uint8)

    def recipes(self):
        return list(self.stored)

    def index(self, recipe):
        images = self.stored[recipe]
        return pa.table({"number": list(range(len(images))), "prompt": ["a photo of a ship"] * len(images),
                         "class": [CLASSES[i % 2] for i in range(len(images))],
                         "sha256": [str(image.sum()) for image in images]})

    def images(self, recipe, batch=256, limit=None):
        for start in range(0, limit or self.n, 7):
            self.read += 1
            yield self.stored[recipe][start:limit][:7]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def known(tmp_path):
    """A reference of the random extractor."""
    found = features.extract([pictures(9, 40, 32, 32)], Random(), [""] * 40)["features"]
    return reference.read(reference.write(tmp_path / "known.npz", found, Random().version))


def test_metrics_by_name():
    assert [one.name for one in chosen(["prdc", "fd", "fd"])] == ["precision", "recall", "density", "coverage", "fd"]
    assert chosen(["dinov2-prdc"])[0].extractor == "dinov2" and chosen(["fid"])[0].name == "inception-fd"
    assert {one.extractor for one in METRICS.values()} == EXTRACTORS.keys()
    assert METRICS["hps2.1-median"].extractor == "hps2.1" and METRICS["hps2.1-median"].part == "median score"
    with pytest.raises(BadValue, match="there is no metric fdd"):
        chosen(["fdd"])
    with pytest.raises(BadValue, match="needs a reference"):
        measure.plan(["random-fd"])


def test_random_features_are_seeded():
    images = pictures(10)
    assert np.array_equal(Random()(images, [])["features"], Random()(images, [])["features"])
    assert not np.allclose(Random()(images, [])["features"], Random(seed=1)(images, [])["features"])


def test_features_are_kept_until_images_change(run):
    made = Random()
    first = features.features(features.Images.of(run, "cfg"), made)
    reads = run.read
    again = features.features(features.Images.of(run, "cfg"), made)
    assert run.read == reads and np.array_equal(first["features"], again["features"])
    run.stored["cfg"][3] = 255 - run.stored["cfg"][3]
    changed = features.features(features.Images.of(run, "cfg"), made)
    moved = np.abs(changed["features"] - first["features"]).max(1) > 1e-6
    assert run.read > reads and moved.tolist() == [i == 3 for i in range(24)]
    assert len(features.features(features.Images.of(run, "cfg", 10), made)["features"]) == 10


def test_damaged_features_are_made_again(run):
    made = Random()
    first = features.features(features.Images.of(run, "cfg"), made)
    name = f"features/{made.version}/cfg.npz"
    run.storage.write(name, run.storage.read(name)[:500])
    assert np.array_equal(features.features(features.Images.of(run, "cfg"), made)["features"], first["features"])


def test_a_run_measures_as_the_statistics_do(run, known):
    plan = measure.plan(["random-fd", "random-prdc", "random-kid", "random-diversity", "pixels"], known, k=3)
    found = {(one.recipe, one.metric): one for one in measure.measure(run, plan)}
    x = Random()(run.stored["emag"], [])["features"]
    close(found["emag", "random-fd"].value, frechet.distance(known.moments, frechet.moments(x)), rtol=1e-9)
    manifolds = prdc.prdc(known.features, x, 3)
    close(found["emag", "random-coverage"].value, manifolds.coverage.mean())
    close(found["emag", "random-density"].value, manifolds.density.mean())
    assert all(one.low <= one.value <= one.high for one in found.values())
    assert "100 subsets of 24;" in found["cfg", "random-kid"].version
    assert {one.n for one in found.values()} == {24}
    assert "k=3" in found["cfg", "random-recall"].version and known.name in found["cfg", "random-fd"].version
    assert known.name not in found["cfg", "contrast"].version and found["cfg", "random-fd"].n == 24
    json.dumps([one.data for one in found.values()])


def test_paired_differences_of_recipes(run, known):
    plan = measure.plan(["contrast", "random-fd", "random-kid"], known)
    found = measure.measure(run, plan, against=["cfg"])
    minus = {one.metric: one for one in found if one.against == "cfg"}
    value = {(one.recipe, one.metric): one for one in found if one.against is None}
    assert minus.keys() == {"contrast", "random-fd"} and {one.recipe for one in minus.values()} == {"emag"}
    one = minus["contrast"]
    close(one.value, value["emag", "contrast"].value - value["cfg", "contrast"].value)
    assert one.high < 0 and one.high - one.low < value["cfg", "contrast"].high - value["cfg", "contrast"].low
    with pytest.raises(BadValue, match="none of the recipes"):
        measure.measure(run, plan, against=["apg"])
    run.stored["emag"] = run.stored["emag"][:20]
    with pytest.raises(BadValue, match="different images"):
        measure.measure(run, plan, against=["cfg"])


def test_versions_are_not_mixed(run, known, tmp_path):
    results = measure.measure(run, measure.plan(["random-fd"], known), ["cfg"])
    other = measure.measure(run, measure.plan(["contrast"]), ["cfg"])
    assert len(measure.check_table([*results, *other])) == 2
    fewer = reference.read(reference.write(tmp_path / "fewer.npz", known.features[:30], known.version))
    again = measure.measure(run, measure.plan(["random-fd"], fewer), ["emag"])
    with pytest.raises(BadValue, match="one table"):
        measure.check_table([*results, *again])
    wrong = reference.read(reference.write(tmp_path / "wrong.npz", known.features, "random-64-seed1"))
    with pytest.raises(BadValue, match="random-64-seed1"):
        measure.plan(["random-fd"], wrong)


def test_foreign_references(tmp_path):
    """pytorch-fid writes mu and sigma, ADM those and mu_s, sigma_s; both are of Inception."""
    x = np.random.default_rng(0).standard_normal((50, 6))
    np.savez(tmp_path / "adm.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False), mu_s=x.mean(0), sigma_s=np.eye(6))
    found = reference.read(tmp_path / "adm.npz")
    assert frechet.distance(found.moments, frechet.moments(x)) < 1e-9
    assert found.features is None and found.fits(EXTRACTORS["inception"]("cpu").version) and not found.fits("random-64")


def test_bad_references(tmp_path):
    (tmp_path / "text.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    for name, says in (("none", "cannot read"), ("text", "no npz"), ("other", "lacks mu"), ("shape", r"\[3\] and \[4, 4\]"),
                       ("pickle", "no npz")):
        with pytest.raises(BadValue, match=says):
            reference.read(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("change", [
    {"mu": np.full(3, np.nan)}, {"sigma": np.full((3, 3), np.inf)}, {"features": np.full((5, 3), np.nan, np.float32)},
    {"features": np.zeros((5, 4), np.float32)}, {"features": np.zeros(5, np.float32)}, {"n": np.array([5])},
    {"n": np.array(5.5)}, {"version": np.array(3)}, {"mu": np.array(["a", "b", "c"])}, {"mu": np.zeros(3, complex)},
    {"mu": np.zeros(0), "sigma": np.zeros((0, 0))}])
def test_references_with_other_things_in_them(tmp_path, change):
    held = {"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array(5), "features": np.zeros((5, 3), np.float32),
            "version": np.array("a")}
    np.savez(tmp_path / "good.npz", **held)
    assert reference.read(tmp_path / "good.npz").moments.count == 5
    np.savez(tmp_path / "bad.npz", **{**held, **change})
    with pytest.raises(BadValue, match=r"not what reference statistics hold|holds complex"):
        reference.read(tmp_path / "bad.npz")


def npz(member, packed=zipfile.ZIP_STORED):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", packed) as file:
        for name, data in member.items():
            file.writestr(name, data)
    return sink.getvalue()


def test_a_file_that_would_fill_the_memory_is_refused_unopened(tmp_path, monkeypatch):
    """Zeros that pack to nothing, and a header that announces more than there is."""
    monkeypatch.setattr(unpacking, "SMALL", 1 << 16)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    for data, says in ((npz({"mu.npy": bytes(1 << 22)}, zipfile.ZIP_DEFLATED), "would unpack to"),
                       (npz({"mu.npy": header.getvalue() + bytes(64)}), "says a wrong size")):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(BadValue, match=says):
            reference.read(tmp_path / "a.npz")


@pytest.mark.parametrize(("what", "harm"), [("NaN", np.nan), ("inf", np.inf)])
def test_features_that_are_no_numbers_are_refused(run, known, what, harm):
    class Broken(Random):
        def __call__(self, images, texts):
            found = super().__call__(images, texts)["features"]
            found[(images == run.stored["cfg"][3]).all((1, 2, 3))] = harm
            return {"features": found}

    plan = measure.plan(["random-diversity"])
    plan.extractors["random"] = Broken()
    with pytest.raises(BadValue, match="features of 1 of 24 images are not finite, first those of place 3"):
        measure.measure(run, plan)
    with pytest.raises(BadValue, match="not finite"):
        features.extract([run.stored["cfg"]], Broken(), [""] * 24)
    assert not run.storage.names("features")


def test_images_that_show_nothing_are_said(run, known, caplog):
    for number, colour in ((3, (0, 0, 0)), (5, (255, 0, 255))):
        run.stored["cfg"][number] = colour
    for _ in range(2):  # extracted, and read again
        caplog.clear()
        measure.measure(run, measure.plan(["random-diversity"]))
        [said] = [one.message for one in caplog.records]
        assert "2 of 24 images of cfg are black, white or clipped nearly everywhere (first that of place 3)" in said


@pytest.mark.parametrize(("few", "said"), [((24, 200), ["24 images"]), ((200, 200), []),
                                           ((200, 60), ["60 reference images"]),
                                           ((24, 60), ["24 images and 60 reference images"])])
def test_a_distance_of_too_few_images_says_so(tmp_path, caplog, few, said):
    """64 features: their covariance takes 128 images or more."""
    made = reference.write(tmp_path / "a.npz", Random()(pictures(9, few[1]), [])["features"], Random().version)
    plan = measure.plan(["random-fd", "contrast"], reference.read(made))
    assert len(measure.measure(Run(tmp_path / "run", few[0]), plan, ["cfg"])) == 2
    assert [one.message.partition("and ")[2].partition(" do not")[0] for one in caplog.records] == said


@pytest.mark.slow
def test_results_of_two_commands_at_once_are_all_kept(run):
    """One command waits while another is between reading and writing, as in two windows."""
    one = measure.Result("cfg", "contrast", 1.0, 0.5, 1.5, 24, "a", None)
    writers = [threading.Thread(target=stored.add, args=(run, [replace(one, recipe=name)])) for name in ("emag", "pag")]
    with run.storage.lock(stored.LOCK):
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(0.5)
        assert all(writer.is_alive() for writer in writers) and not stored.read(run)
        run.storage.write(stored.STORED, json.dumps([one.data]).encode())
    for writer in writers:
        writer.join()
    assert {found.recipe for found in stored.read(run)} == {"cfg", "emag", "pag"}


@pytest.mark.parametrize("change", [{"value": "1"}, {"value": True}, {"low": None}, {"n": 2.5}, {"n": True}, {"recipe": 3},
                                    {"metric": None}, {"version": ["a"]}, {"higher": "yes"}, {"against": 5}, {"more": 1}])
def test_other_types_in_metrics_json_are_one_line(run, change):
    good = {"recipe": "cfg", "metric": "contrast", "value": 1.0, "low": 0.5, "high": 1.5, "n": 24, "version": "a",
            "higher": None, "against": None}
    run.url = "run"
    run.storage.write("metrics.json", json.dumps([good]).encode())
    assert len(stored.read(run)) == 1
    for text in (json.dumps([good, {**good, **change}]), json.dumps([good]).replace("1.0", "NaN"), "{}" + "[" * 9999, "3"):
        run.storage.write("metrics.json", text.encode())
        with pytest.raises(BadValue, match=r"metrics\.json of run is damaged"):
            stored.read(run)


def test_a_reference_of_moments_alone_gives_no_prdc(run, known):
    bare = reference.Reference(known.moments, None, known.version, "bare")
    assert measure.measure(run, measure.plan(["random-fd"], bare), ["cfg"])
    with pytest.raises(BadValue, match="only mu and sigma"):
        measure.measure(run, measure.plan(["random-recall"], bare), ["cfg"])


@pytest.fixture
def parquet(tmp_path):
    import pyarrow.parquet as pq

    rows = []
    for image in pictures(11, 12, 32, 32):
        sink = io.BytesIO()
        Image.fromarray(image).save(sink, "PNG")
        rows.append({"image": {"bytes": sink.getvalue(), "path": None}, "label": 0})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_the_commands(run, parquet, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        return emag(monkeypatch, capsys, *arguments)

    monkeypatch.setattr("emag.lab.evaluate.metrics.plain.RunFolder", lambda url: run)
    file = tmp_path / "reference.npz"
    assert call("reference", file, "--data", parquet, "--extractor", "random", "--limit", 10)[0] == 0
    close(reference.read(file).features, Random()(pictures(11, 12, 32, 32)[:10], [])["features"], atol=1e-5)
    code, said, error = call("metrics", "run", "--metrics", "random-fd,contrast", "--reference", file, "--against", "cfg")
    assert code == 0 and "minus cfg" in said, error
    kept = json.loads(run.storage.read("metrics.json"))
    assert {(one["recipe"], one["metric"], one["against"]) for one in kept} == {
        (recipe, metric, None) for recipe in ("cfg", "emag") for metric in ("random-fd", "contrast")} | {
        ("emag", "random-fd", "cfg"), ("emag", "contrast", "cfg")}
    assert call("metrics", "run", "--metrics", "saturation", "--json")[0] == 0
    assert len(json.loads(run.storage.read("metrics.json"))) == 8
    assert call("reference", file, "--data", parquet, "--extractor", "random", "--limit", 9)[0] == 0
    code, _, error = call("metrics", "run", "--metrics", "random-fd", "--reference", file, "--recipe", "cfg")
    assert code == 2 and "one table" in error


def test_errors_name_the_package():
    def build():
        raise ModuleNotFoundError("No module named 'x'", name="x")

    with pytest.raises(BadValue, match=r"\(x\): pip install y"):
        base.needs(build, "it", "y")
