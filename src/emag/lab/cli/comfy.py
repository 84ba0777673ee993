"""`emag comfy`: the nodes for ComfyUI."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BadValue
from . import common as shared
from .common import command, out


@command("emag comfy install ~/ComfyUI", "emag comfy install ~/ComfyUI --copy",
         kept="ComfyUI stays as it is but for this pack; the same command puts it there again")
def comfy(
    action: Annotated[str, typer.Argument(help="install: put the nodes where ComfyUI looks for them.")],
    folder: Annotated[Path, typer.Argument(help="ComfyUI's folder, or its --base-directory.")],
    copied: Annotated[bool, typer.Option("--copy", help="Copy it; default: a link, so that it follows emag.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Link or copy emag's node pack into a ComfyUI. emag itself must be installed in ComfyUI's Python."""
    from ...hosts.comfy.install import NEWEST, OLDEST, install, is_newer, version_of

    if action != "install":
        raise BadValue(f"emag comfy can install; got {action!r}. Say emag comfy install {folder}")
    target = install(folder.expanduser(), copied)
    version = version_of(folder.expanduser())
    if as_json:
        shared.show_json({"path": str(target), "comfyui": version})
        return
    out.print(f"{target}: the nodes are there" + (f", for ComfyUI {version}" if version else ""))
    if version and is_newer(version):
        out.print(f"It is newer than those the nodes were tried on ({OLDEST} to {NEWEST}): what does not fit is said")
    out.print("Restart ComfyUI (the server, not the page). Its Python needs emag: pip install emag")
