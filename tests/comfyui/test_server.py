"""The real server with our pack: the shipped workflows are posted to it, and images and history are read back."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rooms
import workflows
from emag.records import png
from furnish import furnish
from workflows import small

HERE, TOP = Path(__file__).parent, Path(__file__).parents[2]
EXAMPLES = sorted((TOP / "examples" / "comfy").glob("*.json"))


class Client:
    """One server on a port of the loopback."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def post(self, graph: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        body = {"prompt": graph, "client_id": "tests"}  # as a page: else what is cached is not in the history
        request = urllib.request.Request(self.url + "/prompt", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The history of a graph that was queued and came to its end."""
        status, said = self.post(graph)
        assert status == 200, said
        return self.ended(said["prompt_id"])

    def ended(self, key: str) -> dict[str, Any]:
        """The history of what was queued, as soon as it has one."""
        for _ in range(600):
            history = json.loads(self.get(f"/history/{key}"))
            if history:
                return history[key]
            time.sleep(0.2)
        raise AssertionError("the queue did not come to its end")

    def interrupted(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The history of a graph that was queued and interrupted; again until it is heard: one that begins forgets it."""
        key = self.post(graph)[1]["prompt_id"]
        for _ in range(300):
            time.sleep(0.5)
            urllib.request.urlopen(urllib.request.Request(self.url + "/interrupt", b"{}"), timeout=30).close()
            history = json.loads(self.get(f"/history/{key}"))
            if history:
                return history[key]
        raise AssertionError("the run was not interrupted")

    def images(self, history: dict[str, Any], node: str) -> list[bytes]:
        return [self.get("/view?" + urllib.parse.urlencode(one)) for one in history["outputs"][node]["images"]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    base, port = tmp_path_factory.mktemp("comfy"), free_port()
    furnish(base)
    root = os.path.abspath(os.environ["COMFYUI"])
    paths = os.pathsep.join([str(HERE), str(TOP / "src"), os.environ.get("PYTHONPATH", "")])
    log = (base / "log").open("w")
    process = subprocess.Popen([sys.executable, str(HERE / "server.py"), root, str(base), str(port)], stdout=log,
                               stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths})
    one = Client(port)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise AssertionError((base / "log").read_text()[-3000:])
            try:
                one.get("/prompt")
                break
            except OSError:
                time.sleep(0.2)
        yield one
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_our_nodes_are_there(client: Client) -> None:
    info = json.loads(client.get("/object_info/EmagEMAG"))["EmagEMAG"]
    assert info["display_name"] == "EMAG guidance"
    scale = info["input"]["required"]["scale"][1]
    assert "1 is off" in scale["tooltip"]
    assert scale["max"] == 10.0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_shipped_workflows_run(client: Client, path: Path) -> None:
    history = client.run(small(path))
    assert history["status"]["status_str"] == "success", history["status"]
    assert client.images(history, "8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_pages_form_is_what_is_posted(client: Client, path: Path) -> None:
    """What the pack ships for the page means the API's graph, with the widgets and links of the nodes as they are."""
    info = json.loads(client.get("/object_info"))
    graph = json.loads(path.read_text())
    posted = {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in graph.items()}
    page = json.loads((workflows.PAGE / path.name).read_text())
    assert workflows.to_api(page, info) == posted
    assert {path.name for path in workflows.PAGE.glob("*.json")} == {path.name for path in EXAMPLES}


@pytest.mark.skipif(not rooms.complete(Path(os.environ["COMFYUI"])), reason="this tree is without what serves templates")
def test_comfyui_offers_the_pages_form(client: Client) -> None:
    """The page lists the workflows of a pack among its templates."""
    assert set(json.loads(client.get("/workflow_templates"))["emag-guidance"]) == {path.stem for path in EXAMPLES}
    served = json.loads(client.get("/api/workflow_templates/emag-guidance/emag.json"))
    assert served == json.loads((workflows.PAGE / "emag.json").read_text())


def test_scale_one_is_exact_and_others_are_not(client: Client) -> None:
    drawn = {}
    for scale in (1.0, 1.5):
        graph = small(TOP / "examples/comfy/emag.json")
        graph["5"]["inputs"]["scale"] = scale
        drawn[scale] = pixels(client.images(client.run(graph), "8")[0])
    plain = small(TOP / "examples/comfy/emag.json")
    plain["6"]["inputs"]["model"] = ["1", 0]
    del plain["5"]
    assert pixels(client.images(client.run(plain), "8")[0]) == drawn[1.0] != drawn[1.5]


@pytest.mark.parametrize(("workflow", "widgets", "words"), [
    ("guidance", {"rules": "emag=1.5,beta=7"}, "beta must lie in"),
    ("guidance", {"rules": "emag=nan"}, "nan"),
    ("emag", {"scale": float("nan")}, "scale must lie in [0, 10], got nan"),
    ("emag", {"beta": float("nan")}, "beta must lie in [0, 1], got nan"),
    ("emag", {"every": float("nan")}, "every"),
    ("emag", {"scale": "much"}, "could not convert"),
    ("emag", {"scale": 11}, "scale must lie in [0, 10], got 11"),
    ("emag", {"window": "progress:nan:0.2:0.8"}, "window"),
])
def test_bad_values_are_refused_by_validation(client: Client, workflow: str, widgets: dict[str, Any], words: str) -> None:
    graph = small(TOP / f"examples/comfy/{workflow}.json")
    graph["5"]["inputs"].update(widgets)
    before = json.loads(client.get("/queue"))
    status, said = client.post(graph)
    assert status == 400
    assert words in json.dumps(said["node_errors"])
    assert json.loads(client.get("/queue")) == before  # nothing was queued


def test_an_interrupted_run_leaves_nothing(client: Client) -> None:
    """The next prompts are what they would have been."""
    guided, plain = small(TOP / "examples/comfy/emag.json"), small(TOP / "examples/comfy/emag.json")
    plain["5"]["inputs"]["scale"] = 1.0
    for graph in (guided, plain):
        graph["6"]["inputs"]["steps"] = 10
    before = [pixels(client.images(client.run(graph), "8")[0]) for graph in (guided, plain)]
    long = json.loads(json.dumps(guided))
    long["6"]["inputs"]["steps"] = 10_000
    assert client.interrupted(long)["status"]["messages"][-1][0] == "execution_interrupted"
    assert [pixels(client.images(client.run(graph), "8")[0]) for graph in (guided, plain)] == before


def test_an_image_holds_the_recipe(client: Client, tmp_path: Path) -> None:
    data = client.images(client.run(small(TOP / "examples/comfy/guidance.json")), "8")[0]
    (tmp_path / "one.png").write_bytes(data)
    graph = png.read_graph(tmp_path / "one.png")
    assert graph is not None
    from emag.records.graph import guidances

    assert [rule.name for rule in guidances(graph)[0]] == ["emag", "seg", "apg"]


def test_the_report_is_told(client: Client) -> None:
    history = client.run(small(TOP / "examples/comfy/report.json"))
    assert "block evaluations per image" in history["outputs"]["9"]["text"][0]
    assert pixels(client.images(history, "12")[0]) != pixels(client.images(history, "8")[0])
