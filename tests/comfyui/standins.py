"""A pack for tests: nodes that stand for a checkpoint, its text encoder and its decoder."""

import torch
from comfy_api.latest import ComfyExtension, io

from smallcomfy import SMALL, build, conditioning


class Checkpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestCheckpoint", category="test", inputs=[io.String.Input("ckpt_name")],
                         outputs=[io.Model.Output(), io.AnyType.Output(), io.AnyType.Output()])

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(build(SMALL["sd3"]), None, None)


class Text(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestText", category="test", inputs=[io.String.Input("text")],
                         outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(conditioning(len(text)))


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestDecode", category="test", inputs=[io.Latent.Input("samples")],
                         outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:
        return io.NodeOutput(torch.sigmoid(samples["samples"][:, :3].movedim(1, -1)))


class StandIns(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Checkpoint, Text, Decode]


async def comfy_entrypoint() -> StandIns:
    return StandIns()

