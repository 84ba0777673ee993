"""`emag web`: a page to see guidance work."""

from typing import Annotated, Any, cast

import typer

from . import common as shared
from .common import command, err

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Embedded model, local folder or hub id; see `emag models`.")]


@command("emag web", "emag web shapes --port 7860",
         kept="pictures of this session are gone with the page; those that were downloaded are kept", needs=("web",))
def web(
    model: Name = "tiny", device: shared.Device = None, dtype: shared.Dtype = None, offload: shared.Offload = None,
    lora: shared.Lora = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: a free one.")] = 0,
    as_json: shared.Json = False,
) -> None:
    """Open a page in a browser on this machine: build a guidance, see it beside none, compare blind, keep the pictures."""
    from ..web.model import opened
    from ..web.server import served

    with served(opened(model, device, cast(Any, dtype), cast(Any, offload), lora), port) as server:
        if as_json:
            shared.show_json({"url": server.url})
        err.print(f"Open {server.url} (ctrl-c ends)")
        server.run()
