"""Files below one folder of any file system: each appears whole or not at all."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from ...errors import BadValue, Busy

DRAFT = ".part"
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
        """Write a file: under a temporary name first where it is local, in one put elsewhere. Raises `BadValue`."""
        path = self.path(name)
        try:
            if self.local:
                _write_local(Path(path), data)
            else:
                self.fs.pipe_file(path, data)
        except OSError as error:
            raise BadValue(f"cannot write {path}: {error.strerror or error}. Nothing of it was kept; mend that and give the "
                           "same command again, and it finishes the rest") from error

    def remove(self, name: str) -> bool:
        """Remove a file, or a folder without files; False where it was not there."""
        try:
            self.fs.rm(self.path(name), recursive=True)
        except FileNotFoundError:
            return False
        return True

    def drafts(self, folders: Sequence[str]) -> list[str]:
        """Temporary files that an interrupted write left at the root or below some folders of it."""
        found = [name for folder in folders for name in self.below(folder)] + self.names("")
        return [name for name in found if self.is_draft(name)]

    @staticmethod
    def is_draft(name: str) -> bool:
        """True for the name of a temporary file."""
        return name.endswith(DRAFT)

    def below(self, folder: str) -> list[str]:
        """All files below a folder, sorted."""
        self.fs.invalidate_cache()
        return sorted(self.name(path) for path in self.fs.find(self.path(folder)))

    def name(self, path: str) -> str:
        """The name below the root of a path of the file system."""
        return str(path)[len(self.root) + 1:]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one process at a time, and let go when it dies; only where files are local. Raises `Busy`."""
        if not self.local:
            yield
            return
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            file = open(self.path(LOCK), "wb")  # noqa: SIM115
        except OSError as error:
            raise BadValue(f"cannot write to {self.root}: {error.strerror}") from None
        with file:
            _hold(file, self.root)
            yield


def _write_local(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            _fill(file, data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _fill(file: Any, data: bytes) -> None:
    file.write(data)


def _hold(file: Any, root: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two commands at once are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Busy(f"another process works on {root}: wait for it, or end it") from None
