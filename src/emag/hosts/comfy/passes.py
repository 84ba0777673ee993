"""The passes of a guided run through a ComfyUI network: whoever calls it, here is what its blocks do meanwhile.

ComfyUI batches as it likes: conditional and unconditional rows together or apart, several conditions in one call. Each
call says which condition each part of its rows belongs to, and the branches' states serve those rows.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ...core import Perturbation, Rows, State, Tokens, weak_branches
from ...engine.blocks import Blocks
from ...engine.groups import is_whole
from ...engine.handlers import Handlers, by_rows, looking, nested, perturbing, strengthening, watching
from ...engine.wanted import WHOLE, Changer, Pass
from ...errors import NoEffect, Unsupported
from .checks import in_parts
from .networks import Layout
from .sites import Site, Sites

Group = list[tuple[Perturbation, State]]


@dataclass(frozen=True)
class Part:
    """Rows of one network call that belong to one condition. cond: they are conditional ones."""

    key: Hashable
    cond: bool
    rows: slice


@dataclass(frozen=True)
class NetworkCall:
    """One call of the network. x: [rows, channels, ...]; evaluate: makes it."""

    x: torch.Tensor
    parts: tuple[Part, ...]
    evaluate: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, x: torch.Tensor, options: dict[str, Any], evaluate: Callable[[], torch.Tensor]) -> "NetworkCall":
        """A call with ComfyUI's options, which say what its rows are."""
        kinds, keys = options["cond_or_uncond"], options["uuids"]
        size = len(x) // len(kinds)
        parts = tuple(Part(key, kind == 0, slice(i * size, (i + 1) * size))
                      for i, (key, kind) in enumerate(zip(keys, kinds)))
        return cls(x, parts, evaluate)


class Passes:
    """Passes of one run. evaluations: blocks evaluated so far, per image; plain: those that ComfyUI alone would have."""

    def __init__(self, blocks: Blocks, sites: Sites, layout: Layout, images: int):
        self.blocks, self.sites, self.layout, self.images = blocks, sites, layout, images
        self.depth = blocks.network.depth
        self.evaluations = self.plain = 0
        self.strong = [branch for branch in weak_branches(sites.rules) if branch.strong]

    def clean(self, call: NetworkCall) -> torch.Tensor:
        """An evaluation of ComfyUI's own batch: branches watch it, and what they resume from is recorded."""
        taps, looks, begun = Handlers(), Handlers(), []
        for part in call.parts:
            site = self._site(part, call)
            watched, looked = self._seen(site, part, call)
            taps, looks = nested(taps, watched), nested(looks, looked)
            if part.cond:
                self._begin(site)
                begun.append((site, part))
        self._count(call, self.depth, clean=True)
        self.blocks.recorded, self.blocks.kept = {}, {}
        out = self._pass(call, Pass(taps=taps, looks=looks))
        for site, part in begun:
            site.looked, site.rows = True, part.rows
            site.recorded, site.kept = self.blocks.recorded, self.blocks.kept
        return out

    def weak(self, branch: Perturbation, call: NetworkCall) -> torch.Tensor:
        """A weak pass of conditional rows, resumed at the first block that differs."""
        held = [(self._owner(branch, part, call), part.rows) for part in call.parts]
        groups: list[Group] = [[(branch, site.states[branch])] for site, _ in held]
        for group in groups:
            group[0][1].choose()
        whole = is_whole(*groups[0][0])
        taps = by_rows([(rows, perturbing(group, rows.stop - rows.start))
                        for (_, rows), group in zip(held, groups, strict=True)])
        changers: dict[int, Changer] = {at: partial(groups[0][0][1].change, at) for at in branch.changes}
        now = Pass(WHOLE if whole else branch.resume + 1, taps=self._strengthened(taps, call, branch), changers=changers)
        if not whole:
            self.blocks.recorded = joined([site.recorded for site, _ in held], [site.rows for site, _ in held])
            self.blocks.kept = joined([site.kept for site, _ in held], [site.rows for site, _ in held])
        self._count(call, self.depth - branch.entry, branch.skipped)
        before = self.blocks.resumed, dict(self.blocks.taps.fired), dict(self.blocks.changed)
        out = self._pass(call, now)
        self._check_reached(branch, whole, *before)
        return out

    def other(self, call: NetworkCall) -> torch.Tensor:
        """An evaluation that is another node's own business."""
        self.blocks.recorded, self.blocks.kept = {}, {}
        return self._pass(call, Pass(taps=self._strengthened(Handlers(), call)))

    def spare(self, conditions: int) -> None:
        """That many unconditional ones of ComfyUI's are left out of the clean pass to come."""
        self.plain += self.depth * conditions

    def _site(self, part: Part, call: NetworkCall) -> Site:
        """The site of a part; what watches unconditional rows belongs to the leading one."""
        return self.sites.at(part.key if part.cond else self.sites.lead, self.layout.grid(call.x))

    def _begin(self, site: Site) -> None:
        """The clean pass of a condition, one in each step: of two, the second one would be taken for the first."""
        if site.seen is self.sites.now and site.states:
            raise in_parts("a step calls it twice for one condition")
        site.seen = self.sites.now

    def _owner(self, branch: Perturbation, part: Part, call: NetworkCall) -> Site:
        return self.sites.at(self.sites.lead, self.layout.grid(call.x)) if branch.whole else self._site(part, call)

    def _seen(self, site: Site, part: Part, call: NetworkCall) -> tuple[Handlers, Handlers]:
        """What the branches of a site do in its rows of a clean pass."""
        rows = rows_of(part, call)
        if not part.cond and any(other.cond for other in call.parts):
            return {}, {}  # seen with the conditional rows
        watchers = site.course.watching(observers=not part.cond)
        lookers = [] if site.looked or not part.cond else [
            (branch, state) for branch, state in site.states.items() if not (branch.strong or branch.observes)]
        strong = [(branch, site.states[branch]) for branch in self.strong]
        return looking(lookers, strengthening(strong, watching(watchers, rows), rows))

    def _strengthened(self, taps: Handlers, call: NetworkCall, branch: Perturbation | None = None) -> Handlers:
        if not self.strong or (branch is not None and branch.ahead):
            return taps
        site = self.sites.leading()
        return strengthening([(one, site.states[one]) for one in self.strong], taps, Rows.all_cond(len(call.x)))

    def _pass(self, call: NetworkCall, now: Pass) -> torch.Tensor:
        if any(block.merged for block in self.blocks.network.blocks):
            now = replace(now, image=self.layout.tokens(call.x), references=self.layout.padding(call.x))
        with self.blocks.serving(now):
            return call.evaluate()

    def _count(self, call: NetworkCall, blocks: int, skipped: int = 0, clean: bool = False) -> None:
        made = len(call.x) // self.images * (blocks - skipped)
        self.evaluations += made
        self.plain += made if clean else 0

    def _check_reached(self, branch: Perturbation, whole: bool, resumed: int, fired: dict[Any, int],
                       changed: dict[int, int]) -> None:
        if not whole and self.blocks.resumed != resumed + 1:
            raise NoEffect(f"block {branch.resume} was entered {self.blocks.resumed - resumed} times in a weak pass, "
                           "expected once: another node skips or replaces blocks (a cache?); leave one of them out")
        silent = [at for at in branch.blocks
                  if self.blocks.taps.fired.get((at, branch.cross), 0) != fired.get((at, branch.cross), 0) + 1]
        missed = [at for at in branch.changes if self.blocks.changed.get(at, 0) == changed.get(at, 0)]
        if silent or missed:
            raise NoEffect(f"blocks {sorted({*silent, *missed})} were not reached in a weak pass: another node replaces "
                           "them")


def rows_of(part: Part, call: NetworkCall) -> Rows:
    """A part's rows in its call, beside the unconditional ones where those are one part."""
    if not part.cond:
        return Rows(slice(0, 0), part.rows, len(call.x))
    null = [other.rows for other in call.parts if not other.cond]
    return Rows(part.rows, null[0] if len(null) == 1 else None, len(call.x))


def joined(recorded: Sequence[dict[int, Tokens]], rows: Sequence[slice]) -> dict[int, Tokens]:
    """What several sites recorded, each in its rows, as one pass of all of them has it."""
    def cut(streams: Tokens, part: slice) -> Tokens:
        return {name: value[part] if isinstance(value, torch.Tensor) else value for name, value in streams.items()}

    if len(recorded) == 1:
        return {at: cut(streams, rows[0]) for at, streams in recorded[0].items()}
    parts = [{at: cut(streams, part) for at, streams in one.items()} for one, part in zip(recorded, rows, strict=True)]
    try:
        return {at: {name: torch.cat([one[at][name] for one in parts]) for name in parts[0][at]} for at in parts[0]}
    except RuntimeError as error:
        raise Unsupported("several conditions that ComfyUI evaluates together have texts of different lengths, which "
                          "changed from one pass of a step to the next: give them texts of one length") from error
