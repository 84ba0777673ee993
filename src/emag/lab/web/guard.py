"""Who is answered: requests that name this machine, come from the page itself, and are of a bounded size.

The page runs whatever it is told to on a model of its user's, so that no other page, which the same browser shows, may
speak to it: neither across origins, nor by a name of its own that it lets point to this machine.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from . import payload

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NAMES = ("127.0.0.1", "localhost")
LARGEST = 32 << 20
"""Bytes of one request: of a dropped PNG, most of all."""
ELSEWHERE = ("/file=http:", "/file=https:", "/proxy=")
"""Paths by which Gradio would fetch from another server."""
API = "/gradio_api/"
UPLOAD = f"{API}upload"
POSTS = tuple(f"{API}{name}" for name in ("upload", "queue/join", "run/", "call/", "api/", "cancel", "reset"))
"""Where the page and clients post to. Gradio has more: recordings, streams, an editor of the page's own code."""
UNASKED = (f"{API}deep_link",)
"""Paths that would write a file each time."""
POLICY = ("default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
          "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; form-action 'self'; frame-ancestors 'none'; "
          "base-uri 'self'")
"""What the page may load: its own alone. Gradio compiles the templates of its components, hence the eval."""
FIXED = ((b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
         (b"referrer-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin"))


class Guard:
    """An ASGI application before another one, which it calls for requests that are the page's own.

    port: a function that gives the port, which is known once the server listens. uploads: where dropped files are.
    """

    def __init__(self, app: App, port: Callable[[], int], uploads: Path):
        self.app, self.port, self.uploads = app, port, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refused = self.refusal(scope)
        if scope["type"] == "websocket":
            refused = refused or (403, "there are no web sockets here")
        if refused:
            await answer(send, *refused)
            return
        exchange = Exchange(receive, send)
        if scope["method"] == "POST" and scope["path"] != UPLOAD:
            body = await exchange.whole()
            refused = payload.refusal(body, self.uploads)
            if refused:
                await exchange.refuse(*refused)
            if exchange.over:
                return
            exchange.held = body
        await self.app(scope, exchange.receive, exchange.send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason for a request that is not answered."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        hosts = {f"{name}:{self.port()}" for name in NAMES}
        if headers.get(b"host", "").lower() not in hosts:
            return 403, "another host name"
        origin = headers.get(b"origin")
        if origin is not None and origin.lower().removeprefix("http://") not in hosts:
            return 403, "another origin"
        # a browser says by itself where a request comes from; a link from another page may lead here, no more than that
        site, mode = headers.get(b"sec-fetch-site", "none"), headers.get(b"sec-fetch-mode")
        if site not in ("same-origin", "none") and (mode != "navigate" or scope["method"] != "GET"):
            return 403, "another site"
        if any(part in scope["path"].lower() for part in ELSEWHERE):
            return 403, "this server asks no other"
        posted, path = scope["method"] not in ("GET", "HEAD"), scope["path"]
        if path.startswith(UNASKED) or (posted and (scope["method"] != "POST" or not path.startswith(POSTS))):
            return 403, "not open here"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST:
            return 413, f"a request has at most {LARGEST} bytes"
        return None


class Exchange:
    """One request and its answer: what comes is counted, since it need not say its length; what goes has our headers."""

    def __init__(self, receive: Receive, send: Send):
        self.receive_, self.send_ = receive, send
        self.came, self.begun, self.over = 0, False, False
        self.held: bytes | None = None

    async def whole(self) -> bytes:
        """The body; less than that where nobody is there any more."""
        parts, more = [], True
        while more:
            message = await self.receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)

    async def refuse(self, status: int, text: str) -> None:
        """The answer, unless there was one."""
        if not self.over:
            self.over = True
            await answer(self.send_, status, text)

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part; once too much has come, that nobody is there any more."""
        if self.held is not None:
            body, self.held = self.held, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self.receive_()
        self.came += len(message.get("body", b""))
        if self.came <= LARGEST:
            return message
        if not self.begun:
            await self.refuse(413, f"a request has at most {LARGEST} bytes")
        self.over = True
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """A part of the answer, unless it was given already."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": [*message.get("headers", ()), *FIXED]}
        await self.send_(message)


async def answer(send: Send, status: int, text: str) -> None:
    """One short answer."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *FIXED]})
    await send({"type": "http.response.body", "body": text.encode()})
