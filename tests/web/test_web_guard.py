"""Whom the page answers: its own window on this machine, in requests of a bounded size, with files of its own folder."""

import json
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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


@pytest.fixture
def window(server):
    """Calls of any event of the page, as a window makes them, without the queue."""
    wired = {one["api_name"]: one["id"] for one in json.loads(ask(server, "GET", "/config")[2])["dependencies"]}

    def run(name, *data, **more):
        body = {"fn_index": wired[name], "data": data, "session_hash": "one", **more}
        status, _, said = ask(server, "POST", "/gradio_api/run/predict", json.dumps(body), Origin=origin(server), **JSON)
        return status, said.decode()
    return run


def file(path, **more):
    """What Gradio takes for a file that was dropped."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


@pytest.fixture
def secret(tmp_path):
    """A picture of the user's that was never dropped; its prompt is not for others."""
    info = PngInfo()
    info.add_itxt("parameters", "a secret\nSteps: 20, Seed: 7")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png", pnginfo=info)
    return tmp_path / "secret.png"


def dropped(server, data, name="a.png"):
    """Status and path of an upload, as dropping a file makes it."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: text/html\r\n\r\n'
    status, _, said = ask(server, "POST", UPLOAD, head.encode() + data + b"\r\n--x--\r\n", Origin=origin(server),
                          Content_Type="multipart/form-data; boundary=x")
    return status, json.loads(said)[0] if status == 200 else said.decode()


def cached(server):
    return {one.name for one in server.folder.rglob("*") if one.is_file()}


def test_a_file_that_was_dropped_is_read(server, window, secret):
    status, path = dropped(server, secret.read_bytes())
    assert status == 200 and window("dropped", file(path))[0] == 200 and "a secret" in window("dropped", file(path))[1]


@pytest.mark.parametrize("event", ["dropped", "_listed", "_dragged", "price"])
def test_no_file_of_the_machine_is_read_by_naming_it(server, window, secret, event):
    """Gradio would copy it to where its files are served, whatever the component."""
    inside = server.folder / "cache" / ".." / ".." / secret.relative_to("/")
    away = f"{server.folder}/cache/../../..{secret}"
    for path in (str(secret), away, str(inside), "/etc/hostname", "secret.png", "\0", 7):
        for data in ([file(path)], [[file(path)]], [{"value": file(path)}]):
            assert window(event, *data)[0] == 403, path
    assert not cached(server) & {"secret.png", "hostname"}


def test_a_link_out_of_the_folder_is_no_way_out(server, window, secret):
    link = server.folder / "cache" / "link.png"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    assert window("dropped", file(str(link)))[0] == 403
    link.unlink()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.png", "https://example.org/x.png", "HTTP://example.org/x", "ftp://x/y",
                                 "file:///etc/hostname", "//example.org/x"])
def test_no_address_is_fetched_by_naming_it(window, url, monkeypatch):
    asked = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *given, **more: asked.append(given))
    assert window("dropped", file(url))[0] == 403 and window("_listed", file(url))[0] == 403
    status, said = window("_listed", "emag", event_data={"value": file(url)})
    assert status == 403 and not asked, said


def test_an_escaped_name_is_the_name(server):
    body = '{"fn_index": 0, "session_hash": "one", "data": [{"p\\u0061th": "/etc/hostname", "meta": {}}]}'
    for path in (JOIN, "/gradio_api/run/draw", "/gradio_api/call/draw", "/gradio_api/api/draw"):
        assert ask(server, "POST", path, body, Origin=origin(server), **JSON)[0] == 403
        assert ask(server, "POST", path, "[" * 200_000, Origin=origin(server), **JSON)[0] == 400
        assert ask(server, "POST", path, body[:-1], Origin=origin(server), **JSON)[0] == 400


@pytest.mark.parametrize("path", ["component_server", "process_recording", "vibe-edit", "stream/x", "stream/x/close",
                                  "profiling/clear", "run-history/connect"])
def test_what_the_page_does_not_post_to_is_closed(server, path):
    for body, kind in (("{}", "application/json"), ("--x--", "multipart/form-data; boundary=x")):
        assert ask(server, "POST", f"/gradio_api/{path}", body, Origin=origin(server), Content_Type=kind)[0] == 403
    assert ask(server, "PUT", JOIN, "{}", Origin=origin(server), **JSON)[0] == 403
    assert ask(server, "GET", "/gradio_api/deep_link?session_hash=one")[0] == 403


@pytest.mark.parametrize("name", ["../../a.png", "/etc/cron.d/x", "a\u202egnp.exe", "x" * 3000 + ".png", "a\0.png", "..", "",
                                  "a\r\nX-Y: z.png", "<img src=x onerror=1>.png", "a.svg", "a.html", "..\\..\\a.png"])
def test_an_odd_name_stays_in_the_folder_and_is_no_page(server, name):
    """Nor does it run as one: what a browser would run is a download."""
    status, path = dropped(server, b"<script>1</script>", name)
    assert status in (200, 400)
    if status == 200:
        found = Path(path)
        assert found.is_file() and found.resolve().is_relative_to((server.folder / "cache").resolve())
        status, headers, _ = ask(server, "GET", f"/gradio_api/file={quote(path)}")
        kind = headers["content-type"].split(";")[0]
        assert status == 200 and (kind == "image/png" or headers["content-disposition"].startswith("attachment"))
        assert headers["x-content-type-options"] == "nosniff" and "X-Y" not in headers and "\u202e" not in str(headers)


def test_pickles_are_not_models(tmp_path):
    """What a model folder brings is weights and settings: no pickle, and no class of its own."""
    from emag.lab.web.model import opened

    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "Evil"], "_diffusers_version": "0.41"}')
    (tmp_path / "pipeline.py").write_text("raise SystemExit('this ran')")
    with pytest.raises((BadValue, Exception)) as error:
        opened(str(tmp_path))
    assert "this ran" not in str(error.value) and type(error.value).__module__.startswith("emag")
