"""The pack loaded as ComfyUI loads it, and graphs run by ComfyUI's own executor."""

import asyncio
from pathlib import Path
from typing import Any

import execution
import nodes
import torch
from comfy_api.latest import io

from smallcomfy import SMALL, build, conditioning

PACK = Path(__file__).parents[2] / "comfy" / "emag-guidance"


class RandomModel(io.ComfyNode):
    """A small random model, its conditionings and latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="RandomModel", category="test", inputs=[io.Combo.Input("family", options=list(SMALL))],
                         outputs=[io.Model.Output(), io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()])

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        small = SMALL[family]
        return io.NodeOutput(build(small), conditioning(2, small.text), conditioning(3, small.text),
                             {"samples": torch.zeros(small.shape)})


class Keep(io.ComfyNode):
    """Keeps what it is given for the test."""

    got: list[Any] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Keep", category="test", is_output_node=True, outputs=[],
                         inputs=[io.AnyType.Input("value")])

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> float:
        return float("nan")  # run also where all it gets is cached

    @classmethod
    def execute(cls, value: Any) -> io.NodeOutput:
        Keep.got.append(value)
        return io.NodeOutput()


class Words(io.ComfyNode):
    """A text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Words", category="test", inputs=[io.String.Input("value")], outputs=[io.String.Output()])

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class Number(io.ComfyNode):
    """A number, whatever it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Number", category="test", inputs=[io.Float.Input("value")], outputs=[io.Float.Output()])

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        return io.NodeOutput(value)


class Server:
    """What the executor asks of a server."""

    client_id = last_node_id = last_prompt_id = None
    sockets_metadata: dict[str, Any] = {}

    def send_sync(self, event: str, data: Any, sid: Any = None) -> None:
        pass

    def queue_updated(self) -> None:
        pass


def load() -> None:
    """The pack, and the nodes for tests."""
    assert asyncio.run(nodes.load_custom_node(str(PACK), module_parent="custom_nodes"))
    nodes.NODE_CLASS_MAPPINGS.update({one.__name__: one for one in (RandomModel, Keep, Words, Number)})


def validated(graph: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether a graph may be queued, and the words of what is wrong."""
    result = asyncio.run(execution.validate_prompt("p", graph, None))
    words = [f"{error['message']}: {error['details']}" for node in result[3].values() for error in node["errors"]]
    return bool(result[0]), words


def run(executor: Any, graph: dict[str, Any], outputs: list[str]) -> tuple[list[Any], list[dict[str, Any]]]:
    """What `Keep` nodes were given in one run of a graph, and its errors."""
    Keep.got = []
    asyncio.run(executor.execute_async(graph, "p", {}, outputs))
    return Keep.got, [data for event, data in executor.status_messages if event == "execution_error"]


def executor() -> Any:
    return execution.PromptExecutor(Server(), cache_args={"lru": 0, "ram": 1.0, "ram_inactive": 1.0})


def graph(guide: dict[str, Any] | None, family: str = "sd3", report: bool = False, **sampler: Any) -> dict[str, Any]:
    """Model, a node of ours or none, sampler, keeper; with a report its text, picture and weak latents too."""
    model = ["2", 0] if guide else ["1", 0]
    settings = {"seed": 5, "steps": 6, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **sampler}
    made = {"1": {"class_type": "RandomModel", "inputs": {"family": family}},
            "3": {"class_type": "KSampler", "inputs": {"model": model, "positive": ["1", 1], "negative": ["1", 2],
                                                       "latent_image": ["1", 3], **settings}},
            "4": {"class_type": "Keep", "inputs": {"value": ["3", 0]}}}
    if guide:
        made["2"] = {**guide, "inputs": {"model": ["1", 0], **guide["inputs"]}}
    if report:
        made["5"] = {"class_type": "EmagReport", "inputs": {"model": model, "latent": ["3", 0]}}
        made |= {str(6 + i): {"class_type": "Keep", "inputs": {"value": ["5", i]}} for i in range(4)}
    return made


def emag(**widgets: Any) -> dict[str, Any]:
    return {"class_type": "EmagEMAG", "inputs": {"scale": 1.5, "variant": "query", "blocks": "1-2",
                                                 "window": "progress:0:0.2:0.8", "beta": 0.7, "every": 1, **widgets}}


def guidance(rules: Any, recipe: Any = "none") -> dict[str, Any]:
    return {"class_type": "EmagGuidance", "inputs": {"rules": rules, "recipe": recipe}}
