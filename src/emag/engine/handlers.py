"""What stands in for the tapped attention and the changed blocks of one pass: the states of its branches, in their rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..core import Perturbation, Rows, State, Tokens
from ..maths.attention import Attention
from .attending import Around
from .seam import Handler, Live
from .taps import Tap
from .wanted import Changer

Group = Sequence[tuple[Perturbation, State]]
Handlers = dict[Tap, Handler]
Changers = dict[int, Changer]


def watching(group: Group, rows: Rows) -> Handlers:
    """The branches of `group` look on, and the attention is the live one."""
    taps: dict[Tap, list[tuple[int, State]]] = {}
    for branch, state in group:
        for block in branch.blocks:
            taps.setdefault((block, branch.cross), []).append((block, state))
    return {tap: partial(_watch, held, rows) for tap, held in taps.items()}


def perturbing(group: Group, rows: int) -> Handlers:
    """The branches of `group` perturb, each in its own `rows` rows of the pass."""
    taps: dict[Tap, list[tuple[int, int, State]]] = {}
    for at, (branch, state) in enumerate(group):
        for block in branch.blocks:
            taps.setdefault((block, branch.cross), []).append((at, block, state))
    return {tap: partial(_perturb, held, rows, len(group)) for tap, held in taps.items()}


def looking(group: Group, below: Handlers) -> tuple[Handlers, Handlers]:
    """`below` with the branches of `group` looking on, once a run, and handlers for the attention that only they look at."""
    watched, alone = dict(below), Handlers()
    for branch, state in group:
        for block in branch.blocks if branch.model is None else ():
            tap = block, branch.cross
            held = watched if tap in watched else alone
            held[tap] = partial(_look, block, state, held.get(tap, _live))
    return watched, alone


def nested(inner: Handlers, outer: Handlers) -> Handlers:
    """Both: where they meet, what is live to `outer` is what `inner` gives."""
    met = {tap: partial(_around, inner[tap], handler) for tap, handler in outer.items() if tap in inner}
    return {**inner, **outer, **met}


def by_rows(parts: Sequence[tuple[slice, Handlers]]) -> Handlers:
    """Handlers of passes that share one call, each in its rows; every row is in one part, and all have the same taps."""
    if len(parts) == 1:
        return parts[0][1]
    return {tap: partial(_each_part, [(rows, handlers[tap]) for rows, handlers in parts]) for tap in parts[0][1]}


def strengthening(group: Group, below: Handlers, rows: Rows) -> Handlers:
    """`below`, and on top of it the branches that work in every pass."""
    handlers = dict(below)
    for branch, state in group:
        for block in branch.blocks:
            tap = block, branch.cross
            handlers[tap] = partial(_strengthen, block, state, rows, handlers.get(tap, _live))
    return handlers


def surrounding(group: Group, rows: Rows) -> dict[Tap, Around]:
    """The branches of `group` that work in every pass, around the attention modules of their blocks."""
    return {(block, cross): partial(_around_module, state, block, rows) for branch, state in group
            for block in branch.around for cross in (False, *[True] * branch.around_cross)}


def changing(group: Group) -> Changers:
    """Blocks that a pass changes as a whole; such a branch has a pass of its own."""
    branch, state = group[0]
    return {block: partial(state.change, block) for block in branch.changes}


def entering(group: Group, below: Changers, rows: Rows) -> Changers:
    """`below`, and where a block is evaluated what the branches that work in every pass let into it."""
    changers = dict(below)
    for branch, state in group:
        for block in branch.changes:
            changers[block] = partial(_enter, partial(state.enter, block, rows=rows), changers.get(block, _as_it_is))
    return changers


def _enter(entered: Callable[[Tokens], Tokens], inner: Changer, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
    return inner(streams, lambda given: run(entered(given)))


def _around_module(state: State, block: int, rows: Rows, tokens: torch.Tensor, run: Callable[[torch.Tensor], Any]) -> Any:
    return state.around(block, tokens, run, rows)


def _as_it_is(streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
    return run(streams)


def _live(call: Attention, live: Live) -> torch.Tensor:
    return live(call)


def _around(inner: Handler, outer: Handler, call: Attention, live: Live) -> torch.Tensor:
    return outer(call, lambda part: inner(part, live))


def _each_part(parts: Sequence[tuple[slice, Handler]], call: Attention, live: Live) -> torch.Tensor:
    return torch.cat([handler(call.rows(rows), live) for rows, handler in parts])


def _with_queries(call: Attention, live: Live, q: torch.Tensor) -> torch.Tensor:
    return live(replace(call, q=q))


def _watch(held: Sequence[tuple[int, State]], rows: Rows, call: Attention, live: Live) -> torch.Tensor:
    for block, state in held:
        state.watch(block, call, rows)
    return live(call)


def _look(block: int, state: State, below: Handler, call: Attention, live: Live) -> torch.Tensor:
    state.look(block, call)
    return below(call, live)


def _strengthen(block: int, state: State, rows: Rows, below: Handler, call: Attention, live: Live) -> torch.Tensor:
    return state.strengthen(block, call, lambda q: below(replace(call, q=q), live), rows)


def _perturb(held: Sequence[tuple[int, int, State]], rows: int, times: int, call: Attention, live: Live) -> torch.Tensor:
    if times == 1:
        _, block, state = held[0]
        return state.perturb(block, call, partial(_with_queries, call, live))
    # several branches share the pass, a chunk of rows each; those that do not change this block see it as it is
    mine, out = {at: (block, state) for at, block, state in held}, []
    for at in range(times):
        part = call.rows(slice(at * rows, (at + 1) * rows))
        if at in mine:
            block, state = mine[at]
            out.append(state.perturb(block, part, partial(_with_queries, part, live)))
        else:
            out.append(live(part))
    return torch.cat(out)
