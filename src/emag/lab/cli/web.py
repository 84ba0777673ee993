"""`emag web`: a page to see guidance work."""

from typing import Annotated

import typer

from . import common as shared
from .common import command, err


@command("emag web", "emag web shapes --port 7860",
         kept="pictures of this session are gone with the page; those that were downloaded are kept", needs=("web",))
def web(
    model: shared.NamedModel = "tiny", loading: shared.Loading = shared.ANY,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: a free one.")] = 0,
    as_json: shared.Json = False,
) -> None:
    """Open a page in a browser on this machine: build a guidance, see it beside none, compare blind, keep the pictures."""
    from ..web.model import opened
    from ..web.server import served

    with served(opened(model, **loading.given), port) as server:
        if as_json:
            shared.show_json({"url": server.url})
        err.print(f"Open {server.url} (ctrl-c ends)")
        server.run()
