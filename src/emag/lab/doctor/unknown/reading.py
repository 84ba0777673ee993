"""What a small instance tells of its class: its blocks, their streams, where its tokens are, what its arguments do."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ....families import BACKBONES, Backbone, Stack
from .made_up import ROWS, WORDS, MadeCall, fits
from .placing import all_calls, another, image_stream, moved_by, place_in_one
from .unreadable import Unreadable
from .watching import Attended, Called

BESIDE = r".*(refiner|adapter|embedder|extractor|projection|text_transformer|pooler).*"
"""Lists of blocks that work on the text, or on the image before the text joins it: no part of what is resumed."""


def read_entry(made: MadeCall) -> Backbone:
    """The entry of a network's class, read from how a small one of it behaves. Raises `Unreadable`."""
    calls = all_calls(made)
    changes = {name: all_calls(made, **{name: another(value)}) for name, value in _floats(made)}
    lists = _lists(made, calls, changes[made.sample])
    stacks = _stacks(made, lists, calls, changes)
    network, moving = made.network, [name for name, after in changes.items() if _differs(calls[-1], after[-1])]
    names = list(inspect.signature(type(network).forward).parameters)[1:]
    packed = made.arguments[made.sample].ndim == 3
    return Backbone(
        type(network).__name__, stacks, per_row=tuple(name for name in names if _of_rows(made, name)),
        condition=tuple(name for name in moving if fits(name, WORDS) or name.startswith("pooled")),
        kwargs=next((name for name in names if name.endswith("attention_kwargs")), None),
        sample=made.sample, text=made.text, timestep=made.time, time_modules=tuple(_time_modules(made, calls, changes)),
        grid_ids="img_ids" if packed and "img_ids" in names else None, channel_dim=made.channel_dim,
        channels="out_channels" if "out_channels" in network.config else next(iter(_outs(network)), "out_channels"),
        placed=_placed(made, lists[0], stacks[0]), in_place=_in_place(lists))


def _outs(network: torch.nn.Module) -> Iterator[str]:
    return (name for name in network.config if re.fullmatch(r"out_\w*(channels|dim)", name))


def _floats(made: MadeCall) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in made.arguments.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not name.endswith("ids"))


def _differs(one: Called, other: Called) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(one.outputs, other.outputs))


# blocks


def _lists(made: MadeCall, calls: list[Called], moved: list[Called]) -> list[list[Called]]:
    """The calls of each list of blocks, in the order in which they run; lists inside a block are the block's own.

    moved: the calls with another x_t. A list that it does not change works on the text alone.
    """
    by_path, with_other = ({call.path: call for call in one} for one in (calls, moved))
    found: list[list[Called]] = []
    for path, module in made.network.named_modules():
        if not isinstance(module, torch.nn.ModuleList) or re.fullmatch(BESIDE, path) or any(
                path.startswith(call.path + ".") for blocks in found for call in blocks):
            continue
        blocks = [by_path[f"{path}.{at}"] for at in range(len(module)) if f"{path}.{at}" in by_path]
        if len(blocks) >= 2 and all(call.attended for call in blocks) and _differs(blocks[-1], with_other[blocks[-1].path]):
            found.append(blocks)
    if not found:
        raise Unreadable("it has no list of blocks that each make a fused attention call")
    return sorted(found, key=lambda blocks: calls.index(blocks[0]))


def _stacks(made: MadeCall, lists: list[list[Called]], calls: list[Called],
            changes: dict[str, list[Called]]) -> tuple[Stack, ...]:
    image = 0
    stacks: list[Stack] = []
    for blocks in lists:
        stack, image = _stack(made, blocks, calls, changes, image)
        stacks.append(stack)
    return tuple(stacks)


def _stack(made: MadeCall, blocks: list[Called], calls: list[Called], changes: dict[str, list[Called]],
           image: int) -> tuple[Stack, int]:
    """One list of blocks, and how many image tokens there are."""
    where = blocks[0].path.rpartition(".")[0]
    streams, returns = _streams(where, blocks)
    self_attention = _own(where, blocks[0])
    first = next(name for name in streams if name in blocks[0].given)
    if len(streams) == 1:
        place = place_in_one(made, blocks[0], self_attention, calls, changes, image)
    else:
        place = {name: moved_by(blocks[0], self_attention, name) for name in streams}
        first = image_stream(made, blocks[0], streams, changes)
        place = {"image": place[first], "text": sorted(at for name in streams if name != first for at in place[name])}
    if not place["image"]:
        raise Unreadable(f"no query of {where}.0.{self_attention.path} is the image's")
    tokens = ("image",) if not place["text"] else tuple(sorted(("image", "text"), key=lambda kind: place[kind][0]))
    ordered = (first, *(name for name in streams if name != first))
    cross = next((one.path.partition(".")[0] for one in blocks[0].attended
                  if one.keys != one.queries and one.queries == len(place["image"])), None)
    turned = blocks[0].given[first].shape[0] != ROWS and blocks[0].given[first].shape[1] == ROWS
    return Stack(where, self_attention.path, ordered, returns, tokens, cross, sequence_first=turned), len(place["image"])


def _streams(where: str, blocks: list[Called]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What flows from block to block, in the order of the arguments and in that of what is returned."""
    before, after = blocks[0], blocks[1]
    returns = []
    for out in before.outputs:
        name = next((name for name, value in after.given.items() if value is out), None) or next(
            (name for name, value in after.given.items() if isinstance(value, torch.Tensor) and value.shape == out.shape
             and torch.equal(value, out)), None)
        if name is None:
            raise Unreadable(f"a block of {where} returns something that the next one is not given")
        returns.append(name)
    streams = tuple(name for name in after.given if name in returns)
    if not streams or any(name.isdigit() for name in streams):
        raise Unreadable(f"no stream flows from one block of {where} to the next by a name")
    return streams, tuple(returns)


def _own(where: str, block: Called) -> Attended:
    """The attention to itself of a block: the one that has as many keys as queries."""
    own = [one for one in block.attended if one.keys == one.queries]
    paths = dict.fromkeys(one.path for one in own)
    if not own:
        raise Unreadable(f"no attention of {where}.0 has as many keys as queries")
    if len(own) > 1:
        raise Unreadable(f"a block of {where} makes {len(own)} attention calls of its tokens to themselves "
                         f"({', '.join(paths)}): an entry names one")
    return own[0]


# arguments


def _of_rows(made: MadeCall, name: str) -> bool:
    """True for an argument with one entry a row: as it is given here; of one that is not, what other families say."""
    value = made.arguments.get(name)
    if value is not None:
        return isinstance(value, torch.Tensor) and value.shape[:1] == (ROWS,) and not name.endswith("ids")
    answers = "controlnet" in name and name.endswith(("samples", "hidden_states"))  # of a ControlNet, for each block
    return answers or any(name in entry.per_row for entry in BACKBONES.values())


def _time_modules(made: MadeCall, calls: list[Called], changes: dict[str, list[Called]]) -> Iterator[str]:
    """What embeds the time alone: has weights, changes with the time, and with nothing else."""
    paths = {call.path: call for call in calls}
    found = []
    for path, call in paths.items():
        if not path or not any(True for _ in call.module.parameters()):
            continue
        changed = {name for name, after in changes.items()
                   if _differs(call, next((one for one in after if one.path == path), call))}
        if changed == {made.time}:
            found.append(path)
    embedders = [path for path in found if type(paths[path].module).__name__ == "TimestepEmbedding"]
    outer = [path for path in found if not any(path.startswith(other + ".") for other in found)]
    in_blocks = [path for path in embedders or outer if not re.search(r"(blocks|layers)\.\d", path)]
    yield from in_blocks[:1] if not embedders else in_blocks


def _placed(made: MadeCall, blocks: list[Called], stack: Stack) -> bool:
    """False where a block treats its image tokens as a set: turned round before it or after it, they are the same."""
    block, name = blocks[0], stack.streams[0]
    turning = any(re.search("rotary|rope", word) for one in (made.network, block.module)
                  for word in inspect.signature(type(one).forward).parameters)  # it may not have been given here
    if turning or stack.sequence_first or len(stack.streams) < len(stack.tokens):
        return True
    with torch.no_grad():
        turned = _first(block, block.module(**{**block.given, name: block.given[name].flip(1)}), stack)
        plain = _first(block, block.module(**block.given), stack)
    return not torch.allclose(turned, plain.flip(1), atol=1e-4 * float(plain.abs().max()))


def _first(block: Called, output: Any, stack: Stack) -> torch.Tensor:
    """The image's stream of what a block returned."""
    outputs = replace(block, output=output).outputs
    return outputs[stack.returns.index(stack.streams[0])]


def _in_place(lists: list[list[Called]]) -> bool:
    """True where a block writes into the streams it is given."""
    for block in (blocks[0] for blocks in lists):
        given = {name: value.clone() for name, value in block.given.items() if isinstance(value, torch.Tensor)}
        with torch.no_grad():
            block.module(**{**block.given, **given})
        if any(not torch.equal(value, block.given[name]) for name, value in given.items()):
            return True
    return False
