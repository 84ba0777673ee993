"""A page served in a thread, and how it is asked."""

import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection


@contextmanager
def running(model):
    """A server of the page in a thread."""
    from emag.lab.web.server import served

    with served(model) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        end = time.monotonic() + 60
        while not server.uvicorn.started:
            assert time.monotonic() < end and thread.is_alive(), "the server does not begin"
            time.sleep(0.02)
        yield server
        server.stop()
        thread.join(20)


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of an answer."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return found
