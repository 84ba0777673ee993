"""`export`: the node pack as a folder for the Comfy Registry, with what only its publisher knows filled in.

https://docs.comfy.org/registry/specifications says what the registry asks of such a folder.
"""

import os
import re
import shutil
from pathlib import Path

from ...errors import BadValue
from .install import source

PUBLISHER = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")
REPOSITORY = re.compile(r"https://[^\s\"\\/]+/[^\s\"\\]+")
EMPTY = 'Repository = ""', 'PublisherId = ""'
"""What is left empty in the pack's pyproject.toml: nobody but its publisher knows it."""


def export(folder: Path, publisher: str, repository: str) -> Path:
    """Write the pack to `folder`, which is made; `comfy node publish`, run in it, publishes it.

    publisher: its id at registry.comfy.org, without @; repository: the address of the sources. Raises `BadValue` for what is
    neither, for a folder that is there, and where the disk refuses: nothing half-written is left.
    """
    _check(publisher, repository)
    if folder.exists():
        raise BadValue(f"{folder} is there already: name a folder to be made")
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        shutil.copytree(source(), draft, ignore=shutil.ignore_patterns("__pycache__"))
        project = draft / "pyproject.toml"
        project.write_text(filled(project.read_text(), publisher, repository))
        draft.rename(folder)
    except OSError as error:
        raise BadValue(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def filled(text: str, publisher: str, repository: str) -> str:
    """The pack's pyproject.toml with its two empty entries filled in."""
    for empty, value in zip(EMPTY, (repository, publisher), strict=True):
        text = text.replace(empty, empty.replace('""', f'"{value}"'))
    return text


def _check(publisher: str, repository: str) -> None:
    if not PUBLISHER.fullmatch(publisher):
        raise BadValue(f"--publisher must be the publisher's id at registry.comfy.org, as in --publisher my-name; got "
                       f"{publisher!r}")
    if not REPOSITORY.fullmatch(repository):
        raise BadValue("--repository must be the https address of the sources, as in "
                       f"--repository https://github.com/my-name/emag; got {repository!r}")
