"""`install`: the node pack put where a ComfyUI looks for it."""

import re
import shutil
from pathlib import Path

from packaging.version import Version

from ...errors import BadValue

PACK = "emag-guidance"
OLDEST = "0.9.2"
"""The oldest ComfyUI that the tests run on."""


def source() -> Path:
    """The pack: beside the sources of a checkout, or inside an installed package. Raises `BadValue` where it is neither."""
    here = Path(__file__).resolve()
    for folder in (here.parents[4] / "comfy" / PACK, here.parents[2] / "comfy_pack" / PACK):
        if (folder / "__init__.py").is_file():
            return folder
    raise BadValue(f"the node pack {PACK} is not beside this emag: install emag from its wheel or a checkout")


def version_of(root: Path) -> str | None:
    """The version of a ComfyUI folder, read as text; None for a base folder that holds no sources."""
    file = root / "comfyui_version.py"
    found = re.search(r'__version__\s*=\s*"([^"]+)"', file.read_text(errors="replace")) if file.is_file() else None
    return found[1] if found else None


def install(root: Path, copied: bool = False) -> Path:
    """Link (or copy) the pack into `root`/custom_nodes; the path it has there. Another copy of it is replaced.

    Raises `BadValue` for a folder that is no ComfyUI, for one that is too old, and where the disk refuses.
    """
    if not (root / "custom_nodes").is_dir():
        raise BadValue(f"{root} has no folder custom_nodes: give ComfyUI's own folder, or its --base-directory")
    version = version_of(root)
    if version is not None and Version(version) < Version(OLDEST):
        raise BadValue(f"{root} is ComfyUI {version}, and the nodes need {OLDEST} or newer: update it first")
    target = root / "custom_nodes" / PACK
    try:
        _removed(target)
        if copied:
            shutil.copytree(source(), target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.symlink_to(source(), target_is_directory=True)
    except OSError as error:
        raise BadValue(f"cannot write {target}: {error.strerror}; where links are not allowed, say --copy") from None
    return target


def _removed(target: Path) -> None:
    """Take away what an earlier installation put there, and nothing else."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        pyproject = target / "pyproject.toml"
        if not pyproject.is_file() or f'name = "{PACK}"' not in pyproject.read_text(errors="replace"):
            raise BadValue(f"{target} is there and is not ours: move it away first")
        shutil.rmtree(target)
