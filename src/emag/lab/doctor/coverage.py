"""Every weak branch on every network, beside diffusers' own guiders on the same ones: `emag doctor --matrix`."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from ...core import Rule
from ...engine.network import Network
from ...engine.reading import read_network
from ...families import HOSTS
from ...hosts.lookup import host_of
from ...methods.weak.negative import Negative
from ...testing.cases import every
from ...testing.small import Case, noise
from ..draw.columns import Column
from ..draw.showcase import OTHER, columns
from . import stock
from .diagnose import diagnose
from .finding import Finding

_COLUMNS = {column.label: column for column in columns(("weak", "attention"))}
_MAP = Column.parse("emag map: emag=1.5,variant=map")
METHODS = (_COLUMNS.pop("emag"), _MAP,
           *(column for column in _COLUMNS.values() if not any(isinstance(rule, Negative) for rule in column.rules)))
"""Weak branches and changes of attention; but for those by another prompt, which do not look into the network, and work
wherever CFG does."""


@cache
def networks() -> Mapping[str, Case]:
    """One case for each network class: the plainest (of the shortest name) of the pipeline that its family names first."""
    found: dict[str, Case] = {}
    for pipe, case in sorted(((case.pipe(), case) for case in every().values()), key=lambda made: _place(*made)):
        found.setdefault(_network(pipe).backbone.name, case)
    return MappingProxyType(found)


def _place(pipe: Any, case: Case) -> tuple[int, int]:
    return list(HOSTS).index(host_of(pipe).name), len(case.name)


def coverage(methods: Sequence[str] = (), names: Sequence[str] = ()) -> Iterator[Finding]:
    """One finding for each network class and method (none named: all), then for each of diffusers' guiders."""
    chosen = [column for column in METHODS if not methods or column.label in methods]
    with _quietly():
        for name, case in networks().items():
            if not names or name in names:
                yield from _ours(name, case, chosen)
                yield from (_stock(guider, name, case) for guider in stock.GUIDERS)


def _ours(name: str, case: Case, chosen: Sequence[Column]) -> Iterator[Finding]:
    pipe, given = case.pipe(), {}
    if not host_of(pipe).doubled:
        chosen = [replace(column, rules=tuple(map(_with_text, column.rules))) for column in chosen]
        given = {OTHER: _other_text(_network(pipe), partial(_run, case, pipe))}
    yield from diagnose(pipe, partial(_run, case), name, chosen, given)


def _with_text(rule: Rule) -> Rule:
    """A rule on the negative text, told where it comes from: no unconditional rows are beside the conditional ones."""
    return replace(rule, negative=OTHER) if hasattr(rule, "negative") else rule  # type: ignore[call-arg]


def _other_text(network: Network, call: Callable[[], Any]) -> dict[str, Any]:
    """Another text for `network`: random, shaped as that of its first evaluation, with its masks and positions."""
    args, kwargs = stock.first_inputs(network.module, call)
    values = network.signature.bind(*args, **kwargs).arguments
    names = [name for name in values if ("mask" in name and name != network.backbone.joint_mask) or name == "txt_ids"]
    return ({name: values[name] for name in names if values[name] is not None}
            | {name: noise(70, *values[name].shape) for name in network.backbone.condition})


def _stock(guider: str, name: str, case: Case) -> Finding:
    pipe = case.pipe()
    network = _network(pipe)
    return stock.diagnose(guider, network.module, partial(_run, case, pipe), _stack(network), name)


def _stack(network: Network) -> str:
    """The path of the list that holds the first block, which may stand where a table entry has a pattern."""
    first = network.blocks[0].module
    return next(name for name, module in network.module.named_modules()
                if isinstance(module, torch.nn.ModuleList) and any(block is first for block in module))


def _network(pipe: Any) -> Network:
    return read_network(getattr(pipe, host_of(pipe).denoiser))


def _run(case: Case, pipe: Any) -> torch.Tensor:
    return case.run(pipe, seeds=(8,))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without diffusers' notes on experimental classes and on dtypes."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        diffusers_logging.set_verbosity(level)
