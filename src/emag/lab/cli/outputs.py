"""What `-o` means in every command: a name that ends as the command's files do is the file, any other is a folder."""

from pathlib import Path

from ...errors import BadValue
from ...files import check_folder

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".html", ".htm", ".md", ".json", ".jsonl", ".npz",
                     ".yaml", ".yml", ".csv", ".tsv", ".txt", ".pdf", ".svg", ".parquet"))
"""Endings that are meant as those of files, whoever writes them; a folder may be called runs/v1.5."""

KINDS = {".png": "a PNG", ".html": "an HTML file", ".md": "a Markdown file", ".json": "a JSON file"}


def file_in(out: Path, usual: str) -> Path:
    """The file to write: `out` itself where it ends as `usual` does, else `usual` in the folder `out`.

    Raises `BadValue`, before any work, for another kind of file and where nothing can be written.
    """
    ending = Path(usual).suffix
    if out.suffix.lower() == ending and not out.is_dir():
        check_folder(out.parent)
        return out
    return check_folder(folder_of(out, f", or {KINDS[ending]}, a name that ends in {ending}")) / usual


def folder_of(out: str | Path, hint: str = "") -> Path:
    """The folder `out`. Raises `BadValue` where its name is that of a file."""
    path = Path(out)
    if path.suffix.lower() in ENDINGS and not path.is_dir():
        raise BadValue(f"cannot write to {path}, a name of another kind of file: give a folder{hint}")
    return path


def check_run_out(out: str | None) -> None:
    """Raise `BadValue` where nothing can be written into a run folder, path or URL, that may not be there yet."""
    if out is not None and "://" not in out and "::" not in out:
        check_out(out)


def check_out(out: str | Path) -> Path:
    """A folder to write several files to. Raises `BadValue`, before any work, where that cannot be."""
    return check_folder(folder_of(out))


def file_or_folder(out: Path) -> tuple[Path, Path | None]:
    """Where images go: a folder and None, or for a name that ends in .png its folder and that file."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        return check_folder(out.parent), out
    return check_folder(folder_of(out, ", or for one image a name that ends in .png")), None
