"""An entry held against the laws on a small instance: resume equals full, rows alone, effect."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ....core import Rule
from ....engine.network import Network
from ....engine.reading import read_network
from ....engine.taps import image_tokens
from ....errors import EmagError
from ....families import Backbone
from ....hosts.guided import guided
from ....methods import METHODS
from ....methods.emag.compat import Compat
from ....models.folder import first_line
from ....schedules import Window
from .made_up import ROWS, MadeCall, answer
from .placing import calls_of, moved_queries
from .unreadable import Unreadable

PATH = (1.0, 0.75, 0.5, 0.25, 0.0)
FAR = 2e-4
"""How far resumed and full passes may differ, as a share of the largest value: they round differently."""


def proven(made: MadeCall, entry: Backbone) -> Backbone:
    """The entry, or the same with `skips`, where it keeps the laws. Raises `Unreadable` with the first that it breaks."""
    try:
        network = read_network(made.network, entry)
        try:
            _resumes(made, entry, network)
        except (Unreadable, EmagError):
            entry = replace(entry, skips=True)
            _resumes(made, entry, read_network(made.network, entry))
        _placed_so(made, entry, network)
        _alone(made, entry, network)
        _acts(made, entry, network)
    except EmagError as error:
        raise Unreadable(f"the entry that was read does not hold: {error}") from None
    except Unreadable:
        raise
    except Exception as error:  # whatever a network says of what a wrong entry hands to it
        raise Unreadable(f"the entry that was read does not hold: {first_line(error)[:160]}") from None
    return entry


def _run(made: MadeCall, entry: Backbone, *rules: Rule, rows: slice = slice(None)) -> torch.Tensor:
    """A short run of a loop under rules, with some of the rows that were made up; [rows, ...]."""
    given = {name: value[rows] if name in entry.per_row else value
             for name, value in made.arguments.items() if name not in (made.sample, made.time)}

    whole, dim = made.arguments[made.sample][rows], -1 if made.arguments[made.sample].ndim == 3 else made.channel_dim
    channels = min(whole.shape[dim], made().shape[dim])  # a network may be given more beside x_t, or answer for more
    further = whole.narrow(dim, channels, whole.shape[dim] - channels)

    def denoiser(x: torch.Tensor, t: float, condition: Any) -> torch.Tensor:
        given_x = {made.sample: torch.cat([x, further], dim), made.time: torch.full((len(x),), t)}
        return answer(made.network, {**given, **given_x}).narrow(dim, 0, channels)

    model = guided(denoiser, *rules, path=PATH, backbone=(made.network, entry))
    x = whole.narrow(dim, 0, channels)
    for at in range(len(PATH) - 1):
        x = x + (PATH[at + 1] - PATH[at]) * model(x, at)
    return x


def _emag(layer: int, **more: Any) -> Rule:
    return METHODS["emag"](1.5, layers=(layer,), window=Window.progress(0, 0.0, 1.0), **more)


def _resumes(made: MadeCall, entry: Backbone, network: Network) -> None:
    for layer in range(network.depth):
        resumed = _run(made, entry, _emag(layer))
        whole = _run(made, entry, _emag(layer, compat=Compat(resume=False)))
        if _far(resumed, whole):
            raise Unreadable(f"a pass resumed at block {layer} is not the whole one")


def _placed_so(made: MadeCall, entry: Backbone, network: Network) -> None:
    """Another x_t moves those queries of the first block that the entry calls the image's, and another text the others."""
    first = network.blocks[0]
    for name in filter(None, (made.sample, made.text)):
        moved = moved_queries(made, name, first.module, entry.stacks[0].attention)
        streams = first.streams((), calls_of(made, first.module)[0].given)
        image, _ = image_tokens(first, streams, network.image_tokens(made.arguments))
        own = [at for at in moved if image.start <= at < image.stop]
        if own != (moved if name == made.sample else []):
            raise Unreadable(f"another {name} moves queries {_span(moved)} of the first block, and the image's would be "
                             f"{image.start} to {image.stop - 1}")


def _span(places: list[int]) -> str:
    return f"{places[0]} to {places[-1]}" if places else "none"


def _alone(made: MadeCall, entry: Backbone, network: Network) -> None:
    together = _run(made, entry, _emag(network.depth - 1))
    for row in range(ROWS):
        alone = _run(made, entry, _emag(network.depth - 1), rows=slice(row, row + 1))
        if _far(alone, together[row:row + 1]):
            raise Unreadable(f"row {row} alone is not what it is beside the others: an argument of rows is not declared")


def _acts(made: MadeCall, entry: Backbone, network: Network) -> None:
    plain = _run(made, entry)
    for layer, name in _weak(network):
        made_weak = _run(made, entry, METHODS[name](2.0, layers=(layer,)))
        if not bool(made_weak.isfinite().all()) or not _far(made_weak, plain):
            raise Unreadable(f"{name} on block {layer} changes nothing")


def _weak(network: Network) -> Iterator[tuple[int, str]]:
    return ((layer, name) for layer in range(network.depth) for name in ("pag", "slg"))


def _far(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > FAR * other.abs().max())
