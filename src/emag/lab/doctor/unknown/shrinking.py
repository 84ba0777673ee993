"""A small instance of a network class: its configuration made small entry by entry, as long as it still answers."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch

from ....models.folder import first_line
from ....testing.small import awaken
from .made_up import MadeCall, made_up
from .unreadable import Unreadable

LAYERS = r"(num_|n_|\w+_)?(\w*layers|\w*blocks|depth)"
HEADS = r"(\w+_)?heads"
WIDTH = r"\w*(dim|channels|size|features)\w*"
LEFT = r"(in|out|audio_in|audio_out)_\w*(channels|dim)|patch\w*|\w*sample\w*|\w*max_size|\w*head_dim|target_size|freq_dim"
WHOLE = r"hidden_size|dim|model_dim|dit_dim"
"""What is as wide as all heads together, where no width of a head is given."""
LARGEST = 60_000_000
"""Parameters that are still tried."""


def smallest(cls: type) -> MadeCall:
    """A small `cls` with random weights that hide no bug, and a call of it. Raises `Unreadable` where none was found."""
    plain = {name: one.default for name, one in inspect.signature(cls).parameters.items()
             if one.default is not one.empty}
    said: list[str] = []
    for first in _frames(plain):
        try:
            found = _tried(cls, {**plain, **first})
        except Unreadable as error:
            said.append(str(error))
            continue
        config = {**plain, **first}
        for name, value in _widths(config).items():
            try:
                found = _tried(cls, {**config, name: value})
            except Unreadable:
                continue
            config[name] = value
        return found
    raise Unreadable(said[0])


def _frames(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Fewer layers and heads, with what is as wide as all heads together; then fewer layers alone."""
    layers = {name: min(3, value) for name, value in _whole(plain, LAYERS).items()}
    heads = _whole(plain, HEADS)
    most = max(heads.values(), default=0)
    if most:
        few = max(2, most // min(heads.values()))
        small = {name: max(1, few * value // most) for name, value in heads.items()}
        dims = {name: few * value // most for name, value in _whole(plain, WIDTH).items()
                if value % most == 0 and value > 4 * most and not re.fullmatch(LEFT, name)
                and (value // most == plain.get("attention_head_dim") or re.fullmatch(WHOLE, name))}
        all_small = {**layers, **small, **dims}
        yield {**_widths({**plain, **all_small}), **all_small}
        yield all_small
    yield layers


def _widths(config: dict[str, Any]) -> dict[str, int]:
    """What each remaining width may shrink to."""
    return {name: 32 for name, value in _whole(config, WIDTH).items() if value > 64 and not re.fullmatch(LEFT, name)}


def _whole(config: dict[str, Any], pattern: str) -> dict[str, int]:
    return {name: value for name, value in config.items()
            if type(value) is int and value > 0 and re.fullmatch(pattern, name)}


def _tried(cls: type, config: dict[str, Any]) -> MadeCall:
    try:
        with torch.device("meta"):
            size = sum(one.numel() for one in cls(**config).parameters())
        if size > LARGEST:
            raise Unreadable(f"the smallest one that was found has {size // 10**6} million parameters, too many to try")
        torch.manual_seed(0)
        network = awaken(cls(**config))
    except Unreadable:
        raise
    except Exception as error:  # whatever a class says of a configuration that does not suit it
        raise Unreadable(f"none could be made: {first_line(error)[:160]}") from None
    return made_up(network)
