"""Workflows between ComfyUI's two forms: the API's, which is posted, and the page's, which is opened and shipped.

`python tests/comfyui/workflows.py http://127.0.0.1:8188` writes the page's form of examples/comfy into the pack, as the
nodes of that server are.
"""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]
API, PAGE = TOP / "examples" / "comfy", TOP / "comfy" / "emag-guidance" / "example_workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
AFTER = "fixed"
"""What becomes of a seed after a run: a widget that the page adds behind it, and the API does not have."""


SHOWN = {"SaveImage": 240, "PreviewImage": 240, "PreviewAny": 260}
"""Room for what a node shows after a run."""
STANDS_FOR = {"CheckpointLoaderSimple": "TestCheckpoint", "CLIPTextEncode": "TestText", "VAEDecode": "TestDecode"}
"""Nodes of standins.py, for what would have to be downloaded."""
READ = {"TestCheckpoint": ("ckpt_name",), "TestText": ("text",), "TestDecode": ("samples",)}


def small(path: Path) -> dict[str, Any]:
    """A shipped workflow with stand-ins for what would have to be downloaded, and small pictures."""
    graph = json.loads(path.read_text())
    for node in graph.values():
        kind = STANDS_FOR.get(node["class_type"])
        if kind:
            node["class_type"] = kind
            node["inputs"] = {name: value for name, value in node["inputs"].items() if name in READ[kind]}
        if node["class_type"] == "EmptySD3LatentImage":
            node["inputs"].update(width=64, height=64)
    return graph


def inputs_of(info: dict[str, Any]) -> dict[str, Any]:
    """A node's inputs in order, required ones first, as /object_info says."""
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def is_widget(kind: list[Any]) -> bool:
    return isinstance(kind[0], list) or kind[0] in WIDGETS


def widgets_of(info: dict[str, Any]) -> list[str]:
    """The names of a node's widgets in order, "" for the one behind a seed."""
    names: list[str] = []
    for name, kind in inputs_of(info).items():
        if is_widget(kind):
            names += [name, ""] if (kind[1] if len(kind) > 1 else {}).get("control_after_generate") else [name]
    return names


def to_page(graph: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The page's form of an API graph: nodes from left to right by how far they are from the model."""
    links, nodes, below = [], [], {}
    for order, key in enumerate(sorted(graph, key=lambda key: (depth(graph, key), int(key)))):
        node = graph[key]
        own, slots = info[node["class_type"]], []
        for name, kind in inputs_of(own).items():
            if is_widget(kind):
                continue
            link = node["inputs"].get(name)
            if link:
                source = info[graph[link[0]]["class_type"]]
                links.append([len(links) + 1, int(link[0]), link[1], int(key), len(slots), source["output"][link[1]]])
            slots.append({"name": name, "type": kind[0], "link": len(links) if link else None})
        values = [AFTER if name == "" else node["inputs"][name] for name in widgets_of(own)]
        column, height = depth(graph, key), 60 + 26 * (len(slots) + len(values)) + 80 * any(is_long(v) for v in values)
        height += SHOWN.get(node["class_type"], 0)
        top = below.get(column, 0)
        below[column] = top + height + 60
        nodes.append({"id": int(key), "type": node["class_type"], "pos": [column * 380, top], "size": [320, height],
                      "flags": {}, "order": order, "mode": 0, "inputs": slots, "outputs": [],
                      "title": node["_meta"]["title"],
                      "properties": {"Node name for S&R": node["class_type"]}, "widgets_values": values})
    for node in nodes:
        own = info[node["type"]]
        node["outputs"] = [{"name": name, "type": kind, "slot_index": slot,
                            "links": [one[0] for one in links if one[1:3] == [node["id"], slot]] or None}
                           for slot, (name, kind) in enumerate(zip(own["output_name"], own["output"], strict=True))]
    return {"last_node_id": max(node["id"] for node in nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
            "groups": [], "config": {}, "extra": {}, "version": 0.4}


def depth(graph: dict[str, Any], key: str) -> int:
    """The longest way from a node without links."""
    return max((1 + depth(graph, link[0]) for link in graph[key]["inputs"].values() if isinstance(link, list)), default=0)


def is_long(value: Any) -> bool:
    return isinstance(value, str) and " " in value


def to_api(page: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """What the page posts of a workflow: widgets by the names that stand at their places, links by their ends."""
    ends = {link[0]: link for link in page["links"]}
    graph = {}
    for node in page["nodes"]:
        names = widgets_of(info[node["type"]])
        assert len(names) == len(node["widgets_values"]), node["type"]
        widgets = {name: value for name, value in zip(names, node["widgets_values"], strict=True) if name}
        linked = {}
        for place, slot in enumerate(node["inputs"]):
            if slot["link"] is not None:
                _, source, out, target, at, kind = ends[slot["link"]]
                assert (target, at) == (node["id"], place) and kind == info[kinds(page)[source]]["output"][out]
                linked[slot["name"]] = [str(source), out]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": {**linked, **widgets}}
    return graph


def kinds(page: dict[str, Any]) -> dict[int, str]:
    return {node["id"]: node["type"] for node in page["nodes"]}


def write(url: str) -> None:
    """The pack's workflows anew."""
    with urllib.request.urlopen(f"{url}/object_info") as answer:
        info = json.load(answer)
    PAGE.mkdir(exist_ok=True)
    for path in sorted(API.glob("*.json")):
        page = to_page(json.loads(path.read_text()), info)
        (PAGE / path.name).write_text(json.dumps(page, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1])
