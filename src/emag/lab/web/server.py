"""The page at an address of this machine, and of no other."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import BadValue
from .guard import Guard
from .model import Model

HOST = "127.0.0.1"
LARGEST_FILE = "24mb"
CACHE = "cache"
"""Within the folder of a session: what was dropped, and copies of what is shown."""


class Server:
    """A page for one model at http://127.0.0.1:port; port 0 takes a free one. Raises `BadValue` where it is taken.

    `run` serves until it is interrupted or `stop` is called.
    """

    def __init__(self, model: Model, port: int, folder: Path):
        import uvicorn

        self.folder, self.socket = folder, listening(port)
        self.port = int(self.socket.getsockname()[1])
        app = Guard(application(model, folder), lambda: self.port, folder / CACHE)
        config = uvicorn.Config(app, log_level="critical", access_log=False, ws="none", timeout_graceful_shutdown=1)
        self.uvicorn = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    def run(self) -> None:
        """Serve. Raises `KeyboardInterrupt` after ctrl-c."""
        self.uvicorn.run(sockets=[self.socket])

    def stop(self) -> None:
        """End `run` soon."""
        self.uvicorn.should_exit = True


def listening(port: int) -> socket.socket:
    """A socket on this machine. Raises `BadValue`."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen()
        return found
    except (OSError, OverflowError) as error:
        found.close()
        raise BadValue(f"cannot serve on port {port}: {error}; give another --port") from None


@contextmanager
def served(model: Model, port: int = 0) -> Iterator[Server]:
    """A server, with a folder for its pictures that goes with it."""
    with tempfile.TemporaryDirectory(prefix="emag-web-", ignore_cleanup_errors=True) as folder:
        yield Server(model, port, Path(folder))


def application(model: Model, folder: Path) -> Any:
    """The application: Gradio below FastAPI, which serves files of `folder` alone. Nothing is sent to anybody."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(folder / CACHE), HF_HUB_DISABLE_TELEMETRY="1")
    import gradio
    from fastapi import FastAPI

    from .page import build
    from .page.look import CSS, HEAD, theme

    page = build(model, folder)
    page.queue(default_concurrency_limit=4, max_size=64, api_open=True)
    return gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, path="/", server_name=HOST, footer_links=["api"],
        run_history=False, allowed_paths=[], show_error=True, max_file_size=LARGEST_FILE, ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(), css=CSS, head=HEAD)
