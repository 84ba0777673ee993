"""Reading a network: its class found in the table, its blocks in the order in which they run, what does not fit refused."""

import inspect

import torch

from ..errors import Unsupported
from ..families import BACKBONES, Backbone, Stack, unknown
from .block import block
from .network import Network

# classes that call a network with the arguments they get, and where they keep it
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module",
            "PeftModel": "base_model", "PeftMixedModel": "base_model", "BaseTuner": "model"}


def unwrapped(denoiser: torch.nn.Module) -> torch.nn.Module:
    """The network itself, where `denoiser` may be a wrapper that calls it with the same arguments: torch.compile's, PEFT's,
    `DataParallel`. Raises `Unsupported` for one that copies it to several devices, or takes its weights apart.

    What `torch.distributed.fsdp.fully_shard` makes of a network is of the network's own class, and no wrapper.
    """
    if any(cls.__name__ == "FullyShardedDataParallel" for cls in type(denoiser).__mro__):
        raise Unsupported("FullyShardedDataParallel keeps the weights in flat pieces that only its own wrappers put "
                          "together, and a weak pass goes past them: use torch.distributed.fsdp.fully_shard, block by block")
    if isinstance(denoiser, torch.nn.DataParallel) and len(denoiser.device_ids) > 1:
        raise Unsupported(f"{type(denoiser).__name__} copies the network to {len(denoiser.device_ids)} devices, where a "
                          "guidance cannot follow: unwrap it, network = wrapper.module")
    inner = next((name for kind, name in WRAPPERS.items() if kind in {cls.__name__ for cls in type(denoiser).__mro__}), None)
    return unwrapped(getattr(denoiser, inner)) if inner else denoiser


def read_network(denoiser: torch.nn.Module, entry: Backbone | None = None) -> Network:
    """Hold `denoiser` against `entry` or the table. Raises `Unsupported` where there is none, or where it does not fit."""
    module = unwrapped(denoiser)
    backbone = entry or backbone_of(module)
    signature = inspect.signature(type(module).forward)
    signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    unknown = [name for name in backbone.per_row if name not in signature.parameters]
    if unknown:
        raise Unsupported(f"{backbone.name} here has no argument {', '.join(unknown)}: a diffusers version outside "
                          "the supported range? See the README.")
    stacks = [(stack, _stack(module, stack)) for stack in backbone.stacks]
    _check_order([stack for stack, blocks in stacks if blocks], backbone)
    pairs = [(stack, block) for stack, blocks in stacks for block in blocks]
    if not pairs:
        raise Unsupported(f"this {backbone.name} has no transformer blocks; only networks that have some can be guided")
    return Network(module, backbone, tuple(block(i, *pair) for i, pair in enumerate(pairs)), signature,
                   compiled=compiled(denoiser) or compiled(module))


def _check_order(stacks: list[Stack], backbone: Backbone) -> None:
    """Raise `Unsupported` where one list holds blocks of two kinds: the order in which they run is not known."""
    lists = [stack.name.split(".")[0] for stack in stacks]
    mixed = next((name for name in lists if lists.count(name) > 1), None)
    if mixed:
        raise Unsupported(f"{mixed} of this {backbone.name} holds blocks of two kinds, and emag cannot tell in which order "
                          "they run: only networks with blocks of one kind in each list can be guided")


def backbone_of(module: torch.nn.Module) -> Backbone:
    """The table entry of a network's class or of one of its bases."""
    found = entry_of(module)
    if found is not None:
        return found
    inside = next((name for name, part in module.named_modules() if name and entry_of(part)), None)
    if inside:
        raise Unsupported(f"{type(module).__name__} is not a network but a wrapper, with a "
                          f"{type(module.get_submodule(inside)).__name__} inside: unwrap it, network = wrapper.{inside}")
    raise Unsupported(unknown(type(module).__name__, "network", BACKBONES))


def compiled(module: torch.nn.Module) -> bool:
    """True where `torch.compile` took a module, or its forward."""
    return (hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
            or hasattr(module.forward, "_torchdynamo_orig_callable"))


def entry_of(module: torch.nn.Module) -> Backbone | None:
    """The table entry of a class or of one of its bases; None where there is none."""
    return next((BACKBONES[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in BACKBONES), None)


def _stack(module: torch.nn.Module, stack: Stack) -> list[torch.nn.Module]:
    found = [module]
    for part in stack.name.split("."):
        found = [child for one in found for child in (one if part == "*" else [getattr(one, part, None)])]
        found = [child for child in found if child is not None]
    if not found and "*" not in stack.name and not stack.marked:  # a list of some networks of the class alone
        raise Unsupported(f"{type(module).__name__} has no block list {stack.name!r}")
    lists = [blocks if isinstance(blocks, (torch.nn.ModuleList, torch.nn.Sequential, list, tuple)) else [blocks]
             for blocks in found]
    blocks = [unwrapped(block) for blocks in lists for block in blocks if block is not None]
    return [block for block in blocks if stack.marked is None or hasattr(block, stack.marked)]
