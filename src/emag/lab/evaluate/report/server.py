"""Serves a ballot to a browser on this machine, and to no other."""

import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ....errors import BadValue
from ....files import parsed
from ....shown import visible
from .ballot import Ballot
from .page import PAGES, own_script

HOST = "127.0.0.1"
IMAGE = re.compile(r"/image/(\d{1,9})/(left|right)")
LONGEST = 1000
FIXED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
         "X-Frame-Options": "DENY"}


class Server(ThreadingHTTPServer):
    """A ballot at http://127.0.0.1:port; port 0 takes a free one. Raises `BadValue` where the port is taken."""

    daemon_threads = True

    def __init__(self, ballot: Ballot, port: int = 0):
        try:
            super().__init__((HOST, port), BallotHandler)
        except (OSError, OverflowError) as error:
            raise BadValue(f"cannot serve on port {port}: {error}; give another --port") from None
        self.ballot = ballot
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class BallotHandler(BaseHTTPRequestHandler):
    """Answers of the server. Images are named by number and side only, and no answer names a recipe."""

    server: Server
    timeout = 30
    server_version, sys_version = "emag", ""

    def do_GET(self) -> None:
        image = IMAGE.fullmatch(self.path)
        if not self._asked_by_name():
            self._refuse(HTTPStatus.FORBIDDEN, "another host name")
        elif self.path == "/":
            self._page()
        elif self.path == "/next":
            self._json(self._state())
        elif image:
            self._image(int(image[1]), image[2])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        origin = self.headers.get("Origin", "")
        if not self._asked_by_name() or origin.removeprefix("http://") not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "votes come from the page itself")
        elif self.path == "/undo":
            self._undo()
        elif self.path != "/vote":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._vote()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the address only."""

    def _asked_by_name(self) -> bool:
        """Whether the request names this server: a page elsewhere cannot, whatever its own name resolves to."""
        return self.headers.get("Host") in self.server.hosts

    def _vote(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._refuse(HTTPStatus.BAD_REQUEST, f"a vote has a length of at most {LONGEST} bytes")
            return
        try:
            found = parsed(self.rfile.read(int(length)))
            if not isinstance(found, dict) or set(found) != {"number", "choice"}:
                raise BadValue("a vote is an object of number and choice")
            kept = self.server.ballot.cast(found["number"], found["choice"])
        except ValueError as error:
            full = isinstance(error.__cause__, OSError)  # the disk refuses, and the vote is none
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.BAD_REQUEST,
                         str(error) if isinstance(error, BadValue) else "no JSON")
            return
        self._json(self._state(), HTTPStatus.OK if kept else HTTPStatus.CONFLICT)

    def _undo(self) -> None:
        try:
            kept = self.server.ballot.undo()
        except BadValue as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._json(self._state(), HTTPStatus.OK if kept else HTTPStatus.CONFLICT)

    def _state(self) -> dict[str, Any]:
        ballot = self.server.ballot
        number, (done, total) = ballot.next, ballot.progress
        prompt = ballot.prompts.get(number) or None
        return {"number": number, "prompt": prompt and visible(prompt), "done": done, "total": total}

    def _page(self) -> None:
        script = own_script("vote.js")
        policy = (f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
                  f"script-src {script['script_hash']}")
        self._send(PAGES.get_template("vote.html").render(**script).encode(), "text/html; charset=utf-8",
                   more={"Content-Security-Policy": policy})

    def _image(self, number: int, side: str) -> None:
        try:
            self._send(self.server.ballot.image(number, side), "image/png")
        except BadValue:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such image")

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._json({"error": text}, status)

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **FIXED, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
