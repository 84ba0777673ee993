"""A pipeline held against the entry of its class."""

from dataclasses import replace
from typing import Any

import torch

from ..errors import Unsupported
from ..families import HOSTS, Host, unknown
from . import versions


def host_of(pipe: Any) -> Host:
    """The table entry of a pipeline, as its model is. Raises `Unsupported` where there is none."""
    if not any(cls.__name__ in HOSTS for cls in type(pipe).__mro__) and hasattr(pipe, "guider"):
        raise Unsupported(f"{type(pipe).__name__} takes its guidance from a guider: say emag.hosts.guider.EmagGuider(rules)"
                          ".attach(pipe)")
    host = host_of_class(type(pipe))
    return replace(host, scale=None) if _distilled(host, pipe) else host


def host_of_class(cls: type) -> Host:
    """The table entry of a class of pipelines, or of one of its bases. Raises `Unsupported` where there is none."""
    versions.check_versions()
    found = next((HOSTS[one.__name__] for one in cls.__mro__ if one.__name__ in HOSTS), None)
    if found is None:
        raise Unsupported(unknown(cls.__name__, "pipeline", HOSTS))
    return found


def _distilled(host: Host, pipe: Any) -> bool:
    if not host.distilled:
        return False
    configs = pipe.config, getattr(getattr(pipe, host.denoiser, None), "config", {})
    return any(config.get(host.distilled) for config in configs)


def denoisers(pipe: Any, host: Host) -> list[torch.nn.Module]:
    """The networks of a pipeline in the order in which they serve, each once; of two, one may be missing.

    Raises `Unsupported` where there is none.
    """
    found = (getattr(pipe, name, None) for name in (host.denoiser, host.second) if name)
    networks = list(dict.fromkeys(network for network in found if network is not None))
    if not networks:
        raise Unsupported(f"this {host.name} has no {host.denoiser}: load one")
    return networks
