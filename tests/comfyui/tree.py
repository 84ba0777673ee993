"""A ComfyUI tree made importable: what may be missing, and no test of ours computes with, gets import stand-ins.

torchvision and torchaudio, of which there may be none for this torch. ComfyUI's autoencoders: the tree of 0.9.2 in the
package registry is without them, and all of its nodes import them by name.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import types
from typing import Any

MISSING = ("torchvision", "torchaudio", "comfy.ldm.models")


class _Empty(types.ModuleType):
    """A module that has a class of every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        missing = any(f"{name}.".startswith(f"{one}.") for one in MISSING)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if missing else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__version__ = "0"  # type: ignore[attr-defined]


def stand_in() -> None:
    """Stand-ins for what is missing; transformers looks for torchvision first, and must see none."""
    import transformers  # noqa: F401

    sys.meta_path.append(_StandIns())  # asked last: what is there is taken


def use(root: str) -> str:
    """Put the tree on the path and import it for the CPU; its version."""
    stand_in()
    sys.path.insert(0, os.path.abspath(root))
    argv, sys.argv = sys.argv, ["comfy", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = argv
    from comfyui_version import __version__

    return __version__
