"""Every pipeline class we know, by name. Adding one is adding an entry to one of these modules."""

from dataclasses import replace
from typing import Any

from ..errors import Unsupported
from . import edits, images, videos
from .entry import Host

HOSTS: dict[str, Host] = {host.name: host for module in (images, edits, videos) for host in module.ENTRIES}


def lookup(pipe: Any) -> Host:
    """The table entry of a pipeline's class or of one of its bases. Raises `Unsupported` where there is none."""
    for cls in type(pipe).__mro__:
        if cls.__name__ in HOSTS:
            host = HOSTS[cls.__name__]
            _check_single(host, pipe)
            return replace(host, scale=None) if host.distilled and pipe.config.get(host.distilled) else host
    raise Unsupported(f"{type(pipe).__name__} is not a supported pipeline; supported are {', '.join(HOSTS)}")


def _check_single(host: Host, pipe: Any) -> None:
    if host.second and getattr(pipe, host.second, None) is not None:
        raise Unsupported(f"this {host.name} has a {host.second}, which takes over half way, and a guided run has one "
                          "network: use a model with one, such as Wan 2.1 or Wan 2.2 TI2V-5B")
