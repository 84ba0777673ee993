"""Files below one folder of any file system: each appears whole or not at all."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from ..errors import BadValue, Busy
from ..files import check_folder, is_draft, locked, whole

LOCK = ".lock"


class Storage:
    """The files below `root` on the fsspec file system `fs`, named by their paths from there."""

    def __init__(self, fs: Any, root: str):
        self.fs, self.root = fs, root.rstrip("/")
        self.local = isinstance(fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of a file on its file system."""
        return f"{self.root}/{name}".rstrip("/")

    def exists(self, name: str) -> bool:
        """True where there is such a file."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none where there is no such folder."""
        try:
            self.fs.invalidate_cache()
            return sorted(str(path).rpartition("/")[2] for path in self.fs.ls(self.path(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `BadValue` where it cannot be read."""
        try:
            return bytes(self.fs.cat_file(self.path(name)))
        except OSError as error:
            raise BadValue(f"cannot read {self.path(name)}: {error.strerror or error}") from None

    def read_all(self, names: Sequence[str], at_once: int = 256) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of files; remote ones are fetched some at once."""
        for start in range(0, len(names), at_once):
            group = names[start:start + at_once]
            if self.local:
                yield from ((name, self.read(name)) for name in group)
                continue
            found = self.fs.cat([self.path(name) for name in group])
            yield from zip(group, [found] if isinstance(found, bytes) else found.values())

    def write(self, name: str, data: bytes) -> None:
        """Write a file: under a draft's name first where it is local, in one put elsewhere. Raises `BadValue`."""
        path = self.path(name)
        try:
            if self.local:
                _write_local(Path(path), data)
            else:
                self.fs.pipe_file(path, data)
        except (OSError, BadValue) as error:
            said = str(error) if isinstance(error, BadValue) else f"cannot write {path}: {error.strerror or error}"
            raise BadValue(f"{said}. Nothing of it was kept; mend that and give the same command again, and it finishes the "
                           "rest") from error

    def check(self) -> None:
        """Raise `BadValue` where files cannot be written; nothing is made."""
        if self.local:
            check_folder(self.root)

    def idle(self) -> None:
        """Raise `Busy` where another process works; nothing is made."""
        if self.local and self.exists(LOCK):
            with self.lock():
                pass

    def remove(self, name: str) -> bool:
        """Remove a regular file; False where it is none, was not there, or is reached through a link below the root."""
        if not self.local:
            if not self.fs.isfile(self.path(name)):
                return False
            self.fs.rm_file(self.path(name))
            return True
        if self.linked(name) or not _is_file(self.path(name)):
            return False
        try:
            os.unlink(self.path(name))
        except OSError as error:
            raise BadValue(f"cannot remove {self.path(name)}: {error.strerror}") from None
        return True

    def linked(self, name: str) -> bool:
        """True where `name`, or a folder above it and below the root, is a symbolic link."""
        parts = name.split("/")
        return self.local and any(os.path.islink(self.path("/".join(parts[:end]))) for end in range(1, len(parts) + 1))

    def drafts(self, folders: Sequence[str]) -> list[str]:
        """Drafts that an interrupted write left in some folders, not below them; no links, and none of a living process."""
        found = [f"{folder}/{name}".lstrip("/") for folder in folders for name in self.names(folder) if is_draft(name)]
        return [name for name in found if not self.linked(name) and not _written(name.rpartition("/")[2])]

    def below(self, folder: str) -> list[str]:
        """All files below a folder, sorted; links are named and not followed."""
        if not self.local:
            self.fs.invalidate_cache()
            return sorted(self.name(path) for path in self.fs.find(self.path(folder)))
        found = []
        for place, folders, files in os.walk(self.path(folder)):
            links = [one for one in folders if os.path.islink(os.path.join(place, one))]
            found += [self.name(os.path.join(place, one)) for one in (*files, *links)]
        return sorted(found)

    def name(self, path: str) -> str:
        """The name below the root of a path of the file system."""
        return str(path)[len(self.root) + 1:]

    @contextmanager
    def lock(self, name: str = LOCK, wait: bool = False) -> Iterator[None]:
        """Held by one process at a time, and let go when it dies; only where files are local.

        Raises `Busy` where another holds it and `wait` is False.
        """
        if not self.local:
            yield
            return
        with ExitStack() as held:
            try:
                held.enter_context(locked(Path(self.path(name)), wait))
            except Busy:
                raise Busy(f"another process works on {self.root}: wait for it, or end it") from None
            yield


def _write_local(path: Path, data: bytes) -> None:
    with whole(path) as draft, open(draft, "wb") as file:
        _fill(file, data)


def _fill(file: Any, data: bytes) -> None:
    file.write(data)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _written(draft: str) -> bool:
    """Whether the process that made a draft, which its name tells, still lives on this machine."""
    if os.name == "nt":  # where asking a process would end it
        return False
    try:
        os.kill(int(draft.split("-")[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
