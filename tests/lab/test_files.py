"""Files that appear whole or not at all, also where several write at once and the disk refuses."""

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from emag import files
from emag.errors import BadValue, Busy


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_two_writers_of_one_file_never_share_a_draft(tmp_path):
    with files.whole(tmp_path / "a") as one, files.whole(tmp_path / "a") as two:
        assert one != two
        assert all(files.is_draft(path.name) for path in (one, two))
        one.write_bytes(b"one")
        two.write_bytes(b"second")
    assert (tmp_path / "a").read_bytes() in (b"one", b"second")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError("x")])
def test_a_failed_write_leaves_the_older_file_and_no_draft(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    def half() -> None:
        with files.whole(tmp_path / "a") as draft:
            draft.write_bytes(b"ha")
            raise error

    with pytest.raises(BadValue if isinstance(error, OSError) else type(error)) as caught:
        half()
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    assert not isinstance(error, OSError) or f"cannot write to {tmp_path}/a: No space left" in str(caught.value)


def test_a_file_has_the_rights_that_the_user_gives_files(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with files.whole(tmp_path / "a"):
        pass
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_claimed_once(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    for text, free in (("first", True), ("second", False)):
        with files.drafted(tmp_path) as draft:
            draft.write_text(text)
            assert files.claim(draft, tmp_path / "a") is free
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "first"


@pytest.mark.parametrize("name", [".a.png.part", ".000003.png.7.part", ".emag-1-xyz.part", "emag-1-0123456789abcdef.part"])
def test_drafts_of_others_are_not_ours(name):
    assert not files.is_draft(name)


def _many(path: str, mark: str) -> None:
    for _ in range(50):
        files.append(Path(path), mark.encode() * 200)


def test_many_processes_append_whole_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    each = [context.Process(target=_many, args=(str(tmp_path / "log"), mark)) for mark in "abc"]
    for one in each:
        one.start()
    for one in each:
        one.join()
    lines = (tmp_path / "log").read_text().split("\n")
    assert sorted(lines) == sorted(["", *(["a" * 200] * 50), *(["b" * 200] * 50), *(["c" * 200] * 50)])


def test_a_line_that_does_not_fit_is_not_there_at_all(tmp_path, monkeypatch):
    """A full disk takes a part of a line, then none: the file is cut back, and the next line stands alone."""
    path, write, calls = tmp_path / "log", os.write, []
    files.append(path, b"kept")

    def some(handle, data):
        calls.append(len(data))
        return write(handle, data[:3]) if len(calls) == 1 else full()

    monkeypatch.setattr(os, "write", some)
    with pytest.raises(BadValue, match="No space left"):
        files.append(path, b"a long line")
    monkeypatch.undo()
    assert len(calls) == 2 and path.read_bytes() == b"kept\n"
    path.write_bytes(b"kept\ncut o")
    files.append(path, b"next\n")
    assert path.read_bytes() == b"kept\ncut o\nnext\n"


def test_a_lock_is_held_by_one(tmp_path):
    with files.locked(tmp_path / "new" / "lock"):
        with pytest.raises(Busy, match="another process"), files.locked(tmp_path / "new" / "lock", wait=False):
            pass
    with files.locked(tmp_path / "new" / "lock", wait=False):
        pass


def test_a_folder_is_tried_before_the_work(tmp_path, monkeypatch):
    assert files.check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not os.listdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "away").symlink_to(tmp_path / "nowhere")
    for bad in ("file", "file/a", "away", "away/b", "x" * 300):
        with pytest.raises(BadValue, match="cannot write to") as caught:
            files.check_folder(tmp_path / bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadValue, match="it is a folder"):
        files.check_file(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BadValue, match="No space left"):
        files.check_folder(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["away", "file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_device_refuses_a_line():
    with pytest.raises(BadValue, match="No space left"):
        files.append(Path("/dev/full"), b"line")


@pytest.mark.parametrize(("text", "says"), [
    ("[" * 100_000, "nests"), ("[" * 65 + "]" * 65, "nests"), ('{"a": 1, "a": 2}', "'a' is there twice"), ("[NaN]", "NaN"),
    ("{", "Expecting"), ("1" * 5000, "digits"), (b"\xff\xfe\xfa", "decode")])
def test_json_is_read_strictly(text, says):
    with pytest.raises(ValueError, match=says):
        files.parsed(text)
    assert files.parsed("[" * 60 + "]" * 60)
