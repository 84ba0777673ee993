"""`emag comfy`: the nodes for ComfyUI."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BadValue
from . import common as shared
from .common import command, out


@command("emag comfy install ~/ComfyUI", "emag comfy install ~/ComfyUI --copy",
         "emag comfy export pack --publisher me --repository https://example.org/emag",
         kept="ComfyUI stays as it is but for this pack; the same command puts it there again")
def comfy(
    action: Annotated[str, typer.Argument(help="install: put the nodes where ComfyUI looks for them; export: write them "
                                               "as a folder for the Comfy Registry.")],
    folder: Annotated[Path, typer.Argument(help="ComfyUI's folder, or its --base-directory; of export, the folder to be "
                                                "made.")],
    copied: Annotated[bool, typer.Option("--copy", help="Copy it; default: a link, so that it follows emag.")] = False,
    publisher: Annotated[str, typer.Option(help="Of export: the publisher's id at registry.comfy.org.")] = "",
    repository: Annotated[str, typer.Option(help="Of export: the address of the sources.")] = "",
    as_json: shared.Json = False,
) -> None:
    """Link or copy emag's node pack into a ComfyUI, whose Python needs emag too; or write it as a folder to publish."""
    if action == "install":
        if publisher or repository:
            raise BadValue("--publisher and --repository belong to emag comfy export")
        _install(folder.expanduser(), copied, as_json)
    elif action == "export":
        if copied:
            raise BadValue("--copy belongs to emag comfy install: export copies always")
        _export(folder.expanduser(), publisher, repository, as_json)
    else:
        raise BadValue(f"emag comfy can install and export; got {action!r}. Say emag comfy install {folder}")


def _install(folder: Path, copied: bool, as_json: bool) -> None:
    from ...hosts.comfy.install import NEWEST, OLDEST, install, is_newer, version_of

    target = install(folder, copied)
    version = version_of(folder)
    if as_json:
        shared.show_json({"path": str(target), "comfyui": version})
        return
    out.print(f"{target}: the nodes are there" + (f", for ComfyUI {version}" if version else ""))
    if version and is_newer(version):
        out.print(f"It is newer than those the nodes were tried on ({OLDEST} to {NEWEST}): what does not fit is said")
    out.print("Restart ComfyUI (the server, not the page). Its Python needs emag: pip install emag")


def _export(folder: Path, publisher: str, repository: str, as_json: bool) -> None:
    from ...hosts.comfy.publish import export

    target = export(folder, publisher, repository)
    if as_json:
        shared.show_json({"path": str(target)})
        return
    out.print(f"{target}: the nodes as a folder for the Comfy Registry\nTo publish it as {publisher}, in that folder:\n"
              "  pip install comfy-cli && comfy node publish")
