"""`generate` and `again` on real folders: going on after a kill, two commands at once, disks that refuse."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import emag
from emag.lab.draw import sampling
from emag.records import png as images
from emag.records import seeds

FAST = ("-n", 2, "-g", "emag=0,window=progress:0:0:1")


@pytest.fixture
def drawn(monkeypatch):
    """Seeds of every batch that is drawn."""
    made, sample = [], sampling.draw_images
    monkeypatch.setattr(sampling, "draw_images", lambda pipe, call, numbers, *more: (
        made.append(list(numbers)) or sample(pipe, call, numbers, *more)))
    return made


@pytest.mark.slow
def test_generate_goes_on_after_a_kill(run, drawn, tmp_path):
    (tmp_path / "prompts.txt").write_text("a frog\na ship\na horse\n")
    command = ("generate", "--prompts", tmp_path / "prompts.txt", "-s", "8-9", "-b", 2, "-o", tmp_path / "out", *FAST)
    assert run(*command)[0] == 0 and drawn == [[8, 9]] * 3
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    lost, cut = sorted(path for path in before if "frog" in path or "ship" in path)[::2]
    (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / cut).write_bytes(before[cut][:200])
    drawn.clear()
    code, text, _ = run(*command)
    assert code == 0 and len(drawn) == 2 and "6 image(s)" in text
    assert "2 of them from before" in " ".join(text.split())
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after.pop(f"{cut[:-4]}-2.png") == before[cut] and after.pop(cut) == before.pop(cut)[:200] and after == before
    drawn.clear()
    assert "6 of them from before" in " ".join(run(*command)[1].split()) and not drawn


@pytest.mark.slow
def test_what_differs_is_drawn_anew(run, drawn, tmp_path):
    for more in ((), ("-n", 3), ("--scale", 2), ("-s", "9"), ("--negative", "a dog")):
        command = ("generate", "a frog", "-o", tmp_path, *FAST, *more)
        assert run(*command)[0] == 0 == run(*command)[0]
    assert len(drawn) == 5 == len(list(tmp_path.iterdir()))


def test_other_weights_under_the_same_name_are_drawn_anew(run, drawn, tmp_path, monkeypatch):
    from emag.hosts import load as module

    opened = module._open
    command = ("generate", "a frog", "-o", tmp_path, *FAST)
    assert run(*command)[0] == 0

    def changed(*args):
        pipe = opened(*args)
        pipe.transformer.proj_out.bias.data += 0.01
        return pipe

    monkeypatch.setattr(module, "_open", changed)
    assert run(*command)[0] == 0 and len(drawn) == 2 == len(list(tmp_path.iterdir()))
    old = min(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    code, _, said = run("again", old, "-o", tmp_path / "again")
    assert code == 2 and "transformer of 'tiny' is not what it was" in said


@pytest.mark.long
def test_two_equal_commands_at_once_leave_whole_files(tmp_path):
    command = [sys.executable, "-m", "emag", "generate", "a frog", "a ship", "-b", "1", "-o", str(tmp_path), *map(str, FAST)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [one.communicate()[1].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0], errors
    made = sorted(tmp_path.iterdir())
    assert len(made) == 2 and all(images.read_record(path)["call"]["prompt"] for path in made)


def test_prompts_of_every_script_have_files_of_their_own(tmp_path):
    """Through `run.save`, as for a model that reads them all; the embedded one knows ten English words."""
    from tiny import sd3, sd3_call

    made = []
    for prompt in ("一只青蛙", "двa", "蛙", ""):
        pipe = sd3()
        with emag.guide(pipe, emag.EMAG(1.5, layers=(1, 2))) as handle:
            out = pipe(**sd3_call(output_type="pil"))
        made += images.save(out.images[:1], tmp_path, {**handle.record, "call": {"prompt": prompt}})
    assert [path.name.partition("_s")[0] for path in made] == ["一只青蛙", "двa", "蛙", "unconditional"]


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


COMMANDS = {
    "generate": ("generate", "a frog", "-o", "out"), "compare": ("compare", "a frog", "-c", "none", "-o", "out/a.png"),
    "calibrate": ("calibrate", "pag=2", "-o", "out"), "demo": ("demo", "--classes", "frog", "-o", "out"),
    "again": ("again", "made.png", "-o", "out")}


@pytest.fixture
def here(run, tmp_path, monkeypatch):
    """A folder with an image, to work in."""
    monkeypatch.chdir(tmp_path)
    images.write(Image.new("RGB", (32, 32)), Path("made.png"), {
        "model": {"model": "tiny"}, "rules": [], "call": {"prompt": ["a frog"], "num_inference_steps": 2}, "seeds": [8],
        "unrecorded": [], "row": 0, "versions": {}})
    return tmp_path


def refused(run, command, reason):
    code, _, said = run(*command)
    lines = [line for line in said.splitlines() if line.startswith("emag: error:")]
    assert code == 2 and len(lines) == 1 and reason in lines[0] and "Traceback" not in said
    assert not [name for _, _, names in os.walk(".") for name in names if name not in ("made.png", "file")]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_disk_that_is_full_or_read_only_is_known_before_the_work(run, here, monkeypatch, command):
    monkeypatch.setattr("emag.hosts.load.load", lambda *args, **more: pytest.fail("loaded"))
    open_ = os.open
    for code, reason in ((errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")):
        def refuse(path, flags, *more, code=code, reason=reason):
            if flags & os.O_CREAT:
                raise OSError(code, reason)
            return open_(path, flags, *more)

        with monkeypatch.context() as disk:
            disk.setattr(os, "open", refuse)
            refused(run, command, reason)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", no_space)
        refused(run, command, "No space left")
    (here / "file").write_text("")
    refused(run, [str(part).replace("out", "file/out") for part in command], "is no folder")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_disk_that_fills_up_in_the_work_leaves_no_half_file(run, here, monkeypatch, command):
    monkeypatch.setattr(Image.Image, "save", lambda image, draft, **more: no_space(Path(draft).write_bytes(b"half")))
    monkeypatch.setattr(Path, "write_text", no_space)
    monkeypatch.setattr("emag.lab.cli.demo.STEPS", 2)
    refused(run, [*command, *({"compare": ["-n", 2], "generate": ["-n", 2], "calibrate": ["-n", 2]}.get(command[0], []))],
            "No space left")


@pytest.mark.parametrize(("text", "says"), [
    ("0-999999999", "more than 100000 seeds"), ("0-99999,5", "more than"), (str(2**64), "64 bits"),
    ("9" * 50, "cannot read"), ("9" * 5000, "cannot read"), ("11-8", "end before they begin; write 8-11"),
    ("-1", "cannot read"), ("1.5", "cannot read"), ("٣", "cannot read"),
    ("", "cannot read"), (f"{2**64 - 2}-{2**64}", "64 bits"), ("1,,2", "cannot read")])
def test_seeds_out_of_range_are_refused_at_once(text, says):
    with pytest.raises(emag.BadValue, match=says) as caught:
        seeds.read_seeds(text)
    assert len(str(caught.value)) < 300


def test_seeds():
    assert seeds.read_seeds("8") == [8] and seeds.read_seeds("8-11, 3") == [8, 9, 10, 11, 3]
    assert seeds.read_seeds(str(2**64 - 1)) == [2**64 - 1] and len(seeds.read_seeds("0-99999")) == 100_000


def test_the_largest_seed_draws_and_is_drawn_again(run, tmp_path):
    assert run("generate", "a frog", "-s", 2**64 - 1, "-o", tmp_path, *FAST)[0] == 0
    path = next(tmp_path.glob("*.png"))
    assert f"_s{2**64 - 1}_" in path.name and images.read_record(path)["seeds"] == [2**64 - 1]
    code, text, _ = run("again", path, "-o", tmp_path / "again")
    assert code == 0 and "byte-identical" in text


@pytest.mark.slow
def test_again_of_other_pixels_exits_with_1_and_says_what_differs(run, tmp_path):
    run("generate", "a frog", "-o", tmp_path, *FAST)
    path = next(tmp_path.glob("*.png"))
    record, picture = images.read_with_image(path)
    images.write(picture, path, {**record, "versions": {**record["versions"], "torch": "1.0"}})
    code, text, said = run("again", path, "-o", tmp_path / "same")
    assert code == 0 and "every pixel" in text and "torch 1.0" in text and "made with torch 1.0" in said
    images.write(picture.rotate(90), path, record)
    code, text, _ = run("again", path, "-o", tmp_path / "other", "--json")
    assert code == 1 and json.loads(text)["identical"] is False
    assert Image.open(json.loads(text)["image"]).tobytes() == picture.tobytes()
