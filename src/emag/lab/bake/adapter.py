"""The LoRA that learns: which modules it is on, and how it is written so that diffusers and `emag.load` read it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from ...engine.network import Network
from ...engine.swaps import scale_lora
from ...engine.undo import Undo
from ...errors import BadValue
from ...models import folder
from ...records.baked import KEY

NAME, FILE = "baked", "pytorch_lora_weights.safetensors"
"""Name of the adapter in the network, and of its file, which diffusers looks for."""


def check_network(network: Network) -> None:
    """Raise `BadValue` for a network that takes no adapter, has one already, or whose precision no training survives."""
    module: Any = network.module
    if not hasattr(module, "add_adapter"):
        raise BadValue(f"{network.backbone.name} takes no adapter of peft: it is no model of diffusers")
    if NAME in (getattr(module, "peft_config", None) or {}):
        raise BadValue("this network has a baked adapter already: load it anew")
    if module.dtype == torch.float16:
        # the loss is a mean over all numbers of a batch, so that a single one's gradient is below what 16 bits can hold
        raise BadValue("this network is in float16, in which the gradients of a training round to 0: load it in bfloat16 or "
                       "float32 (--dtype bfloat16)")


def add_adapter(network: Network, rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """Put a LoRA on every linear layer of the blocks, and freeze all else; its parameters by name.

    It is in fp32, whatever the network is in, and starts as the network is: one factor is 0. Raises as `check_network`.
    """
    check_network(network)
    module: Any = network.module
    targets = {name for block in network.blocks for name, part in block.module.named_modules()
               if isinstance(part, torch.nn.Linear)}
    module.requires_grad_(False)
    torch.manual_seed(seed)
    # alpha = rank: what is written needs no scale of its own
    module.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(targets)), NAME)
    parameters = {name: p for name, p in module.named_parameters() if f".{NAME}." in name or p.requires_grad}
    for p in parameters.values():
        # peft makes it in the network's dtype: in 16 bits the small steps of an optimizer would round to none
        p.data = p.data.float()
    return parameters


@contextmanager
def adapter_at(network: Network, share: float) -> Iterator[None]:
    """The adapter at a weight of `share`, until the block ends; at 0 the network is what it was."""
    undo = Undo()
    try:
        if share != 1:
            scale_lora(network.module, share, undo)
        yield
    finally:
        undo.close()


def write_adapter(out: Path, network: Network, prefix: str, facts: Mapping[str, Any]) -> Path:
    """Write the adapter in 16 bits in diffusers' form, with what is baked in; the file's path. prefix: the component."""
    state = get_peft_model_state_dict(network.module, adapter_name=NAME)
    path = out / FILE
    out.mkdir(parents=True, exist_ok=True)
    folder.save_tensors(path, {f"{prefix}.{name}": value.to(torch.bfloat16) for name, value in state.items()},
                        {KEY: json.dumps(dict(facts))})
    return path
