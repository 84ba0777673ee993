"""What stands around ComfyUI's server and is not in every tree: users, files, the page, the database.

The tree of 0.9.2 in the package registry has the server, its queue, the executor and the nodes, and is without the packages
that they meet at the door. No test of ours asks those for anything: they take every call and answer nothing.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

from aiohttp import web

MISSING = ("app", "api_server", "middleware", "utils")


class Nothing:
    """Takes every call, and is false."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Nothing":
        return self

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __bool__(self) -> bool:
        return False


class InternalRoutes:
    """Routes that the page asks, none of them."""

    def __init__(self, server: Any):
        self.server = server

    def get_app(self) -> web.Application:
        return web.Application()


@web.middleware
async def cache_control(request: web.Request, handler: Any) -> web.StreamResponse:
    """Hands a request on."""
    return await handler(request)


class Room(types.ModuleType):
    """A module with something of every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return {"InternalRoutes": InternalRoutes, "cache_control": cache_control}.get(name, Nothing())


class Rooms(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nobody else found."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in MISSING else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return Room(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


def complete(root: Path) -> bool:
    """Whether a tree has all that stands around its server."""
    return all((root / name).is_dir() for name in MISSING)


def stand_in(root: Path) -> None:
    """Put the stand-ins where a tree is without."""
    if not complete(root):
        sys.meta_path.append(Rooms())
