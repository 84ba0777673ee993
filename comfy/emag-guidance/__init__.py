"""Nodes for guidance at sampling time: EMAG and the other methods of the emag library, which does the work."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES


class EmagExtension(ComfyExtension):
    """What the host asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> EmagExtension:
    return EmagExtension()
