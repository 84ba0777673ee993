"""Where the image's tokens are in the sequence of a block's attention, by what another x_t changes there."""

from typing import Any

import torch

from ....testing.small import noise
from .made_up import MadeCall
from .unreadable import Unreadable
from .watching import Attended, Called, watched


def all_calls(made: MadeCall, **other: Any) -> list[Called]:
    """Every call inside a call of the network, some of its arguments replaced."""
    with watched(made.network) as calls:
        made(**other)
    return calls


def another(value: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind."""
    return value * 0.5 + 0.3 * noise(77, *value.shape)


def calls_of(made: MadeCall, module: torch.nn.Module) -> list[Called]:
    """The calls of one part of a network in a call of it."""
    return [call for call in all_calls(made) if call.module is module]


def moved_queries(made: MadeCall, name: str, module: torch.nn.Module, path: str) -> list[int]:
    """The places of the sequence at which the queries of a block's attention differ where `name` is another."""
    found = []
    for other in ({}, {name: another(made.arguments[name])}):
        block = next(call for call in all_calls(made, **other) if call.module is module)
        found.append(next(one for one in block.attended if one.path == path and one.keys == one.queries))
    return _rows(found[0].query, found[1].query)


def _rows(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    """Positions of the sequence at which two queries differ."""
    apart = (one - other).abs().transpose(0, -2).flatten(1).amax(1)
    return apart.nonzero().flatten().tolist()


def moved_by(block: Called, attention: Attended, stream: str) -> list[int]:
    """The queries that differ where the block is given another `stream`."""
    with torch.no_grad(), watched(block.module) as calls:
        block.module(**{**block.given, stream: another(block.given[stream])})
    return _rows(attention.query, _same(calls[-1], attention).query)


def _same(block: Called, attention: Attended) -> Attended:
    return next(one for one in block.attended if one.path == attention.path and one.keys == attention.keys)


def image_stream(made: MadeCall, block: Called, streams: tuple[str, ...], changes: dict[str, list[Called]]) -> str:
    """The stream that another x_t changes first; where all are mixed already, the one named as the image's."""
    after = next(call for call in changes[made.sample] if call.path == block.path)
    changed = [name for name in streams if not torch.equal(block.given[name], after.given[name])]
    if len(changed) == 1:
        return changed[0]
    named = [name for name in streams if "encoder" not in name and "text" not in name and "context" not in name]
    if len(named) != 1:
        raise Unreadable(f"it does not show which of {', '.join(streams)} is the image's")
    return named[0]


def place_in_one(made: MadeCall, block: Called, attention: Attended, calls: list[Called],
                  changes: dict[str, list[Called]], image: int) -> dict[str, list[int]]:
    """Where image and text are in one sequence: what another x_t changes, and the rest."""
    total = attention.queries
    if image:  # a later list: everything is mixed, but the sequence has been put together from what came before
        if total == image:
            return {"image": list(range(total)), "text": []}
        return _place_after(block, image, calls)
    after = next(call for call in changes[made.sample] if call.path == block.path)
    moved = _rows(attention.query, _same(after, attention).query)
    if not moved or moved != list(range(moved[0], moved[0] + len(moved))):
        raise Unreadable(f"the image tokens of {block.path} are in several places")
    return {"image": moved, "text": [at for at in range(total) if at not in moved]}


def _place_after(block: Called, image: int, calls: list[Called]) -> dict[str, list[int]]:
    """The image's place in a sequence made of two streams, by what its blocks were given."""
    stream = next(value for value in block.given.values() if isinstance(value, torch.Tensor) and value.ndim == 3
                  and value.shape[1] > image)
    total = stream.shape[1]
    ends = {"image": stream[:, :image], "text": stream[:, :total - image]}
    last = [out for call in calls[:calls.index(block)] for out in call.outputs]
    if any(one.shape == ends["image"].shape and torch.equal(one, ends["image"]) for one in last):
        return {"image": list(range(image)), "text": list(range(image, total))}
    if any(one.shape == ends["text"].shape and torch.equal(one, ends["text"]) for one in last):
        return {"image": list(range(total - image, total)), "text": list(range(total - image))}
    raise Unreadable(f"it does not show where the image is in the sequence of {block.path}")
