"""Files that several processes may write at once: each appears whole or not at all, and nothing is lost between them.

    with whole(path) as draft: ...      write `draft`; it becomes `path` at the end, in one step. An older file is replaced.
    with drafted(folder) as draft: ...  the same without a name yet; `claim(draft, path)` gives it one that nobody has.
    with locked(path): ...              one process at a time: read, change and write a file that others change too.
    append(path, line)                  a line at the end of a file, whole or not at all; many processes may do so.
    check_folder(folder)                refuses, before any work, a folder that cannot be written or has no room.
    parsed(text)                        JSON of others: no endless nesting, no key twice, no NaN.

Every draft has a name of its own (`is_draft`), so two equal commands never write into one file, and whoever cleans up after
a killed one knows them. All raise `BadValue` in one line where the disk refuses, and leave nothing half-written.
"""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import BadValue, Busy

_DRAFT = re.compile(r"\.emag-\d+-[0-9a-f]{16}\.part")
ROOM = 1 << 16
"""Bytes that a folder must still take before work for it begins."""
DEEPEST = 64
"""Levels of nesting in JSON that we read."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside `path`, its folder made; renamed to `path` at the end, removed after an error."""
    path = Path(path)
    with drafted(path.parent) as draft, _refused(path):
        yield draft
        os.replace(draft, path)


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """An empty file in `folder` under a name that is this call's alone; what still has that name at the end is removed."""
    draft = Path(folder) / f".emag-{os.getpid()}-{secrets.token_hex(8)}.part"
    with _refused(Path(folder)):
        draft.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with _refused(Path(folder)):
            yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def is_draft(name: str) -> bool:
    """True for the name of a draft, without its folder."""
    return _DRAFT.fullmatch(name) is not None


def claim(draft: Path, path: Path) -> bool:
    """Rename a finished draft to `path` unless there is something of that name; whether it was free.

    Of two processes that claim one name, one gets it.
    """
    with _refused(path):
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                return False
            os.rename(draft, path)
        return True


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, one process at a time; it is let go when the process dies. The file stays where it is.

    Raises `Busy` where another holds it and `wait` is False.
    """
    with _refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        _hold(handle, path, wait)
        yield
    finally:
        _let_go(handle)


def append(path: Path, line: bytes) -> None:
    """Put one line at the end of a file and on the disk; after a failure the file is as it was.

    A last line that an earlier write left cut off is ended first, so that it spoils itself alone.
    """
    with _refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666)
        try:
            _hold(handle, path, True)
            _put(handle, line.rstrip(b"\n") + b"\n")
        finally:
            _let_go(handle)


def _put(handle: int, line: bytes) -> None:
    end = os.lseek(handle, 0, os.SEEK_END)
    try:
        cut = end > 0 and _last(handle, end) != b"\n"
        rest = memoryview(b"\n" + line if cut else line)
        while rest:  # a write may take less than it was given, on a full disk without an error
            rest = rest[os.write(handle, rest):]
        os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(handle, end)
        raise


def _last(handle: int, end: int) -> bytes:
    os.lseek(handle, end - 1, os.SEEK_SET)
    return os.read(handle, 1)


def check_folder(folder: str | Path) -> Path:
    """`folder` as a path, if files can be written there now. Raises `BadValue` before anything is; makes no folder."""
    folder = Path(folder)
    with _refused(folder):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)  # a name that is too long, a loop of links
        nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
        if not os.path.isdir(nearest):
            raise BadValue(f"cannot write to {folder}: {nearest} is no folder")
        with drafted(nearest) as draft:
            draft.write_bytes(b"\0" * ROOM)
    return folder


def check_file(path: str | Path) -> Path:
    """`path`, if a file can be put there now. Raises `BadValue` before anything is."""
    path = Path(path)
    if path.is_dir():
        raise BadValue(f"cannot write to {path}: it is a folder")
    check_folder(path.parent)
    return path


def parsed(text: str | bytes) -> Any:
    """JSON, read strictly. Raises `ValueError` for what is none, nests deeper than `DEEPEST`, or names a key twice."""
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_number)
    except RecursionError:
        raise ValueError(f"it nests deeper than {DEEPEST} levels") from None
    level = [found]
    for _ in range(DEEPEST):
        level = [item for value in level if isinstance(value, (dict, list))
                 for item in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise ValueError(f"it nests deeper than {DEEPEST} levels")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _hold(handle: int, path: Path, wait: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two commands at once are the user's to avoid
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise Busy(f"another process holds {path}: wait for it, or end it") from None


def _let_go(handle: int) -> None:
    """Give up the lock, also where a child process, forked in the meantime, still has the file open; then close it."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the disk refuses, in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise BadValue(f"cannot write to {path}: {reason}") from error
