"""Whom the page answers: its own window on this machine, in requests of a bounded size, with files of its own folder."""

import json
import socket
from pathlib import Path

import pytest

from emag.errors import BadValue
from emag.lab.web import guard
from emag.lab.web.server import listening

pytest.importorskip("gradio")

from page_server import ask

JSON = {"Content_Type": "application/json"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


def origin(server):
    return f"http://127.0.0.1:{server.port}"


def test_it_listens_on_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1" and server.url == f"{origin(server)}/"
    with pytest.raises(BadValue, match="give another --port"):
        listening(server.port)


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
def test_a_forged_host_is_refused(server, path):
    """The name of another page, which it lets point to this machine."""
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}", ""):
        assert ask(server, "GET", path, Host=host)[0] == 403, host
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}"):
        assert ask(server, "GET", path, Host=host)[0] == 200, host


@pytest.mark.parametrize("path", [JOIN, UPLOAD, "/gradio_api/call/draw", "/gradio_api/run/draw", "/gradio_api/cancel"])
def test_a_post_of_another_page_is_refused(server, path):
    for other in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}", "http://127.0.0.1:1",
                  f"http://127.0.0.1:{server.port}.evil.example"):
        assert ask(server, "POST", path, "{}", Origin=other, **JSON)[0] == 403, other
    assert ask(server, "POST", path, "{}", Sec_Fetch_Site="cross-site", **JSON)[0] == 403
    assert ask(server, "POST", path, "{}", Origin=origin(server), **JSON)[0] != 403


def test_another_page_may_link_here_and_no_more(server):
    assert ask(server, "GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server, "GET", "/config", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


def test_the_page_loads_from_itself_alone(server):
    status, headers, body = ask(server, "GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert b"fonts.googleapis" not in body and b"cdnjs" not in body


def test_a_request_has_a_bounded_size(server, monkeypatch):
    monkeypatch.setattr(guard, "LARGEST", 1000)
    assert ask(server, "POST", JOIN, "x" * 1001, Origin=origin(server), **JSON)[0] == 413
    assert chunked(server, 100, 200) == 413
    assert ask(server, "POST", JOIN, json.dumps({"data": []}), Origin=origin(server), **JSON)[0] != 413


def chunked(server, size, count):
    """Status of a request that does not say its length."""
    head = (f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as found:
        found.sendall(head.encode())
        try:
            for part in ("--x\r\nContent-Disposition: form-data; name=\"files\"\r\n\r\n", *["y" * size] * count):
                found.sendall(f"{len(part):x}\r\n{part}\r\n".encode())
        except OSError:  # it was refused before its end
            pass
        return int(found.recv(100).split()[1])


def test_a_file_has_a_bounded_size(server):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    status, _, said = ask(server, "POST", UPLOAD, head + b"p" * (25 << 20) + b"\r\n--x--\r\n", Origin=origin(server),
                          Content_Type="multipart/form-data; boundary=x")
    assert status in (400, 413), said[:200]


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__)), str(Path.cwd() / "pyproject.toml"), "../../etc/passwd",
                                  "/proc/self/environ"])
def test_no_file_beside_its_own_is_served(server, path):
    for prefix in ("/gradio_api/file=", "/file="):
        assert ask(server, "GET", prefix + path)[0] in (403, 404), prefix


def test_it_fetches_nothing_from_elsewhere(server):
    for path in ("file=http://127.0.0.1:1/x", "file=https://example.org/x", "proxy=https://x.hf.space/x"):
        assert ask(server, "GET", f"/gradio_api/{path}")[0] == 403, path


def test_pickles_are_not_models(tmp_path):
    """What a model folder brings is weights and settings: no pickle, and no class of its own."""
    from emag.lab.web.model import opened

    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "Evil"], "_diffusers_version": "0.41"}')
    (tmp_path / "pipeline.py").write_text("raise SystemExit('this ran')")
    with pytest.raises((BadValue, Exception)) as error:
        opened(str(tmp_path))
    assert "this ran" not in str(error.value) and type(error.value).__module__.startswith("emag")
