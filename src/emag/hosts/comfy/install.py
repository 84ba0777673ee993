"""`install`: the node pack put where a ComfyUI looks for it."""

import os
import re
import shutil
from pathlib import Path

from packaging.version import Version

from ...errors import BadValue

PACK = "emag-guidance"
OLDEST, NEWEST = "0.9.2", "0.30.0"
"""The oldest and the newest ComfyUI that the tests run on."""


def source() -> Path:
    """The pack: beside the sources of a checkout, or inside an installed package. Raises `BadValue` where it is neither."""
    here = Path(__file__).resolve()
    for folder in (here.parents[4] / "comfy" / PACK, here.parents[2] / "comfy_pack" / PACK):
        if (folder / "__init__.py").is_file():
            return folder
    raise BadValue(f"the node pack {PACK} is not beside this emag: install emag from its wheel or a checkout")


def version_of(root: Path) -> str | None:
    """The version of a ComfyUI folder, its numbers read as text; None for a base folder that holds no sources."""
    file = root / "comfyui_version.py"
    text = file.read_text(errors="replace") if file.is_file() else ""
    found = re.search(r"""__version__\s*=\s*["'](\d+(\.\d+)*)""", text)
    return found[1] if found else None


def is_newer(version: str) -> bool:
    """Whether a version is beyond those that the tests run on."""
    return Version(version) > Version(NEWEST)


def install(root: Path, copied: bool = False) -> Path:
    """Link (or copy) the pack into `root`/custom_nodes; the path it has there. Another copy of it is replaced.

    Raises `BadValue` for a folder that is no ComfyUI, for one that is too old, and where the disk refuses: what was there
    is then there as it was.
    """
    if not (root / "custom_nodes").is_dir():
        raise BadValue(f"{root} has no folder custom_nodes: give ComfyUI's own folder, or its --base-directory")
    target = root / "custom_nodes" / PACK
    draft = target.with_name(f".{PACK}-{os.getpid()}")
    try:
        version = version_of(root)
        if version is not None and Version(version) < Version(OLDEST):
            raise BadValue(f"{root} is ComfyUI {version}, and the nodes need {OLDEST} or newer: update it first")
        _check_ours(target)
        _put(draft, copied)
        _remove(target)
        draft.rename(target)
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise BadValue(f"cannot write {target}: {reason}" + ("" if copied else "; where links are not allowed, say --copy")
                       ) from None
    finally:
        _remove(draft)
    return target


def _put(draft: Path, copied: bool) -> None:
    """A whole pack under another name first."""
    if copied:
        shutil.copytree(source(), draft, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        draft.symlink_to(source(), target_is_directory=True)


def _check_ours(target: Path) -> None:
    """Refuse to take the place of what is not this pack; a link that leads nowhere may go."""
    pyproject = target / "pyproject.toml"
    if target.exists() and not (pyproject.is_file() and f'name = "{PACK}"' in pyproject.read_text(errors="replace")):
        raise BadValue(f"{target} is there and is not ours: move it away first")


def _remove(path: Path) -> None:
    """Take away a link, or a folder."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
