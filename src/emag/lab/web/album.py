"""The pictures of this session: PNGs that carry their recipe, the newest first, in a folder of the page's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...records.png import keep
from .job import Drawing

MOST = 24
"""Pictures that a window keeps."""


@dataclass(frozen=True)
class Album:
    """Where the pictures lie."""

    folder: Path

    def added(self, drawn: Drawing, paths: Sequence[str]) -> list[str]:
        """The paths of a window with the pictures of a run before them; the oldest of more than `MOST` are removed."""
        new = [str(keep(image, self.folder, record)) for image, record in zip(drawn.images, drawn.records)]
        kept = list(dict.fromkeys([*new, *paths]))
        return kept[:MOST]

    def read(self, path: str) -> bytes:
        """A picture of the album, and of nowhere else. Raises `FileNotFoundError`."""
        file = self.folder / Path(path).name
        return file.read_bytes()
