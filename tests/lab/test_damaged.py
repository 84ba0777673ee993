"""PNGs and records of strangers: whatever is in them, they are read, or refused in one line; nothing runs, nothing fills the
machine. A fuzz, small here and large in the long suite."""

import io
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emag.errors import EmagError
from emag.lab.cli.show import described
from emag.lab.draw import remake
from emag.records import png as images

RECORD = {
    "model": {"model": "tiny", "revision": None, "lora": None, "dtype": "float32"}, "pipeline": "TinyPipeline",
    "rules": [{"cads": {}}, {"emag": {"scale": 1.5, "variant": "map", "layers": [2, 3]}}, {"apg": {"scale": 4.0}}],
    "call": {"prompt": ["a frog", "a ship"], "guidance_scale": 2.5, "num_inference_steps": 3, "num_images_per_prompt": 1},
    "seeds": [8, 9], "row": 1, "unrecorded": [],
    "versions": {"torch": "2", "emag": "0", "diffusers": "0", "transformers": "0"},
    "state": {"scheduler": {"class": "FlowMatchEulerDiscreteScheduler", "config": {"shift": 1.5}}, "networks": {}},
    "device": "cpu"}
ODD = (None, True, -1, 0, 1, 2**31, 2**63, 2**70, 0.5, 1e300, "", "a", "../..", "\x1b[2J", "\ud800", [], [[]], {}, {"a": 1},
       [None], ["a"] * 3, [1, 2], "tiny", "load:/nowhere", "https://example.org/x", "a\nb")


def png(text=None, pixels=None):
    """A whole PNG; with a record."""
    folder = io.BytesIO()
    info = images.PngImagePlugin.PngInfo()
    info.add_itxt(images.KEY, json.dumps(RECORD) if text is None else text)
    Image.fromarray(np.arange(3 * 64, dtype="uint8").reshape(8, 8, 3) if pixels is None else pixels).save(
        folder, format="PNG", pnginfo=info)
    return folder.getvalue()


def chunks(data):
    """Kind and content of every chunk of a PNG."""
    found, at = [], 8
    while at < len(data):
        length, = struct.unpack(">I", data[at:at + 4])
        found.append((data[at + 4:at + 8], data[at + 8:at + 8 + length]))
        at += 12 + length
    return found


def joined(parts):
    """A PNG of chunks, every checksum right."""
    return images.PngImagePlugin._MAGIC + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)


def damaged(data, rng):
    """A PNG after one accident, or after somebody's work on its chunks."""
    way, parts = rng.randrange(5), chunks(data)
    if way == 0:
        return data[:rng.randrange(len(data))]
    if way == 1:
        at = rng.randrange(len(data))
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    at = rng.randrange(len(parts))
    kind, body = parts[at]
    if way == 2:
        parts.insert(rng.randrange(len(parts)), (rng.choice([kind, b"zTXt", b"tEXt", b"iTXt", b"acTL", b"iCCP"]), body))
    elif way == 3 and body:
        cut = rng.randrange(len(body))
        parts[at] = (kind, body[:cut] + rng.randbytes(rng.randrange(4)) + body[cut + 1:])
    else:
        del parts[at]
    return joined(parts)


def altered(value, rng):
    """JSON with one odd value in some place of it."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    made = value.copy()
    key = rng.choice(keys)
    if isinstance(made, dict) and rng.random() < 0.1:
        del made[key]
    else:
        made[key] = altered(value[key], rng)
    return made


def refused_or(call, *arguments):
    """The result of a call, or the one line of its refusal."""
    try:
        return call(*arguments)
    except EmagError as error:
        said = str(error)
    assert "\n" not in said and len(said) < 2000
    return said


def read_all(path):
    """Everything that `again` does before it loads."""
    record = images.read_record(path)
    assert described(record)
    rules = remake.check(record)
    assert 0 <= record["row"] < remake.images_of(record)
    return remake.sources(record), rules


def _fuzz_files(path, count):
    data, refused = png(), 0
    for seed in range(count):
        path.write_bytes(damaged(data, random.Random(seed)))
        refused += isinstance(refused_or(read_all, path), str)
    assert refused > count / 4


def _fuzz_records(path, count):
    refused = 0
    for seed in range(count):
        rng, record = random.Random(seed), RECORD
        for _ in range(rng.randrange(1, 4)):
            record = altered(record, rng)
        path.write_bytes(png(json.dumps(record)))
        refused += isinstance(refused_or(read_all, path), str)
    assert refused > count / 4


def test_damaged_files(tmp_path):
    _fuzz_files(tmp_path / "a.png", 300)


@pytest.mark.slow
def test_altered_records(tmp_path):
    _fuzz_records(tmp_path / "a.png", 300)


@pytest.mark.long
def test_many_damaged_files(tmp_path):
    _fuzz_files(tmp_path / "a.png", 20_000)
    _fuzz_records(tmp_path / "a.png", 20_000)


def _fuzz_again(run, folder, seeds):
    path = folder / "a.png"
    for seed in seeds:
        rng = random.Random(seed)
        path.write_bytes(png(json.dumps(altered(altered(RECORD, rng), rng))))
        code, _, said = run("again", path, "-o", folder / "out")
        assert code in (1, 2), said
        assert code == 1 or sum(line.startswith("emag: error:") for line in said.splitlines()) == 1


def test_again_of_altered_records(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _fuzz_again(run, tmp_path, range(12))


@pytest.mark.long
def test_again_of_many_altered_records(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _fuzz_again(run, tmp_path, range(12, 600))


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


BOMB = zlib.compress(b"[" * (1 << 27), 9)
BOMBS = {
    "pixels": joined([header(60_000, 60_000), *chunks(png())[1:]]),
    "a side": joined([header(2**31 - 1, 1), *chunks(png())[1:]]),
    "text": joined([chunks(png())[0], (b"iTXt", b"emag\0\1\0\0\0" + BOMB), *chunks(png())[2:]]),
    "old text": joined([chunks(png())[0], (b"zTXt", b"emag\0\0" + BOMB), *chunks(png())[2:]]),
    "profile": joined([chunks(png())[0], (b"iCCP", b"a\0\0" + BOMB), *chunks(png())[1:]]),
    "nesting": png("[" * 200_000), "closed nesting": png("[" * 500 + "]" * 500),
    "a number": png('{"row": ' + "9" * 10_000 + "}"),
    "many texts": joined([chunks(png())[0], *[(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(1 << 19))) for i in range(200)],
                          *chunks(png())[1:]]),
    "twice": png('{"row": 0, "row": 1}'), "no number": png('{"row": NaN}'), "empty": png(""), "a list": png("[]"),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    assert isinstance(refused_or(read_all, tmp_path / "a.png"), str)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "PDF", "EPS", "ICO", "TGA"])
def test_other_formats_are_refused_under_any_name(kind, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", format=kind)
    assert "it is no PNG" in refused_or(images.read_record, tmp_path / "a.png")


def test_what_is_no_file_is_refused(tmp_path):
    assert "it is no file" in refused_or(images.read_record, tmp_path)
    assert "no file" in refused_or(images.read_record, Path("/dev/zero"))
    assert "there is no file" in refused_or(images.read_record, tmp_path / "nowhere.png")
    assert "there is no file" in refused_or(images.read_record, tmp_path / ("x" * 300))


@pytest.mark.parametrize(("change", "says"), [
    ({"row": 2}, "row 2 of 2 images"), ({"row": 10**30}, "row 1000000000000000000000000000000 of 2"),
    ({"seeds": [8]}, "2 images and 1 seeds"), ({"seeds": None}, "seeds are not recorded"),
    ({"call": {"prompt": []}}, "0 images"),
    ({"call": {**RECORD["call"], "num_images_per_prompt": 10**9}}, "2000000000 images"),
    ({"call": {**RECORD["call"], "num_inference_steps": 10**9}}, "num_inference_steps=1000000000"),
    ({"call": {**RECORD["call"], "height": 10**6}}, "height=1000000"), ({"model": None}, "model is not recorded"),
    ({"rules": [{"magic": {}}]}, "no method"), ({"rules": [{"emag": {"scale": -1}}]}, "scale"),
    ({"unrecorded": ["callback_on_step_end"]}, "callback_on_step_end could not be recorded")])
def test_what_again_refuses_before_it_loads(run, tmp_path, monkeypatch, change, says):
    monkeypatch.setattr("emag.hosts.load.load", lambda *args, **more: pytest.fail("loaded"))
    (tmp_path / "a.png").write_bytes(png(json.dumps({**RECORD, **change})))
    code, _, said = run("again", tmp_path / "a.png", "-o", tmp_path / "out")
    assert code == 2 and says in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_again_says_what_it_loads_before_it_does(run, tmp_path, monkeypatch):
    """The names in a PNG are a stranger's: they are shown first, and no escape sequence among them reaches the terminal."""
    def stop(*args, **more):
        raise EmagError("stopped before loading")

    monkeypatch.setattr("emag.hosts.load.load", stop)
    model = {"model": "evil/model\x1b[2J", "revision": "main", "lora": "evil/lora:0.5", "dtype": "float32"}
    rules = [{"autoguidance": {"scale": 2.0, "model": "load:evil/second"}}]
    (tmp_path / "a.png").write_bytes(png(json.dumps({**RECORD, "model": model, "rules": rules})))
    code, _, said = run("again", tmp_path / "a.png", "-o", tmp_path / "out")
    lines = said.splitlines()
    assert code == 2 and lines[-1] == "emag: error: stopped before loading"
    assert [word for word in ("evil/model", "evil/lora:0.5", "evil/second") if any(word in line for line in lines[:-1])] == [
        "evil/model", "evil/lora:0.5", "evil/second"]
    assert "\x1b" not in said and r"\x1b[2J" in said and "revision 'main'" in said
