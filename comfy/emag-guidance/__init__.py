"""Nodes for guidance at sampling time: EMAG and the other methods of the emag library, which does the work."""

import sys

from comfy_api.latest import ComfyExtension, io

try:
    from .nodes import NODES
except ModuleNotFoundError as error:
    if error.name != "emag":
        raise
    raise ImportError(f"the emag nodes need emag in ComfyUI's own Python: run `{sys.executable} -m pip install emag`, and "
                      "restart ComfyUI") from None


class EmagExtension(ComfyExtension):
    """What the host asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> EmagExtension:
    return EmagExtension()
