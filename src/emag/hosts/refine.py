"""`refine`: a search over whole runs for the first noise whose image a score likes best. Resumable, never worse."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from ..core import Score
from ..errors import BadValue, NoEffect
from ..maths.energies import called, check_scores, label_of, slope
from ..maths.streams import Streams
from ..models.folder import save_tensors
from ..samplers.loop import Progress
from ..samplers.searches import BestOf, Memory, Search
from ..scores import named

Draw = Callable[[torch.Tensor], torch.Tensor]
"""A run: first noise [batch, ...] -> images [batch, 3, height, width] in [0, 1], or whatever else the score sees."""


@dataclass(frozen=True)
class Refined:
    """What a search found. x: first noises [batch, ...]; made: what they become; scores, start: [batch], of those and of
    the noises given; rounds: runs made."""

    x: torch.Tensor
    made: torch.Tensor
    scores: torch.Tensor
    start: torch.Tensor
    rounds: int


def refine(draw: Draw, x: torch.Tensor, score: Score | str, search: Search | None = None, keep: str | Path | None = None,
           on_step: Progress | None = None, groups: Sequence[Hashable] | None = None) -> Refined:
    """The best first noise that a search finds, for each sample apart; never worse than x by the score.

    draw: a run, from x [batch, ...] to images, e.g. `lambda x: pipe(prompt, latents=x, output_type="pt").images`; for a
    search by gradients (`Ascent`) differentiable, see `emag.samplers.searches.differentiable`. search: None is `BestOf(8)`.
    keep: a file that is written after each run, from which the same call goes on. on_step: called with (runs done, runs in
    all). groups: what each sample is of, such as its prompt: the k samples of one share what is tried for any of them, and
    are its k best; None is each for itself. Raises `BadValue` for what is no score, and for a file of another search;
    `NoEffect` where gradients are cut.
    """
    _check_run(draw, x)
    search = search or BestOf()
    function = named(score) if isinstance(score, str) else score
    streams, memory = Streams.of(x), {"x": x.detach()}
    together = _groups(groups, search, len(x))
    kept = KeptSearch(None if keep is None else Path(keep), _digest(x, search, together))
    done, best, memory = kept.read(memory)
    for at in range(done, search.rounds + 1):
        made, value, gradient = _evaluated(draw, function, memory["x"], search.differentiates)
        best = _better(best, {"x": memory["x"], "made": made, "scores": value, "start": value}, together)
        if at < search.rounds:
            memory = search.following(memory, gradient, at, streams)
        kept.write(at + 1, best, memory)
        if on_step is not None:
            on_step(at + 1, search.rounds + 1)
    return Refined(best["x"], best["made"], best["scores"], best["start"], search.rounds + 1)


def _check_run(draw: Any, x: Any) -> None:
    """Raise `BadValue` for what is no run from x, or no first noise."""
    if isinstance(draw, DiffusionPipeline) or not callable(draw):
        raise BadValue(f"refine is given a run, a function of the first noise, got {type(draw).__name__}: say refine(lambda "
                       "x: pipe(prompts, latents=x, output_type='pt').images, x, score)")
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise BadValue(f"first noises are a tensor of real numbers [batch, ...], got {got}")


def _drawn(draw: Draw, x: torch.Tensor) -> torch.Tensor:
    """What a run makes of x. Raises `BadValue` where that is not a tensor with a row for each."""
    made = draw(x)
    if not isinstance(made, torch.Tensor) or made.shape[:1] != x.shape[:1]:
        got = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise BadValue(f"a run of {len(x)} first noises gave {got}: it must give a tensor [{len(x)}, ...], of a pipeline "
                       "with output_type='pt' its .images")
    return made


SharedRows = list[list[int]]
"""Numbers of the samples of each group."""


def _groups(groups: Sequence[Hashable] | None, search: Search, count: int) -> SharedRows:
    if groups is None:
        return [[row] for row in range(count)]
    if len(groups) != count:
        raise BadValue(f"groups are one for each of {count} samples, got {len(groups)}")
    if search.follows:
        raise BadValue(f"groups share what a search tries for any of them, and {search.name} tries for each sample what "
                       "follows from its own last: leave groups out, or search by BestOf")
    return [[row for row, other in enumerate(groups) if other == name] for name in dict.fromkeys(groups)]


def _better(best: Memory, tried: Memory, groups: SharedRows) -> Memory:
    """Of what a group had and what was tried for it, what scores highest; the start stays the first one's."""
    if not best:
        return tried
    both = {name: torch.cat([best[name], tried[name]]) for name in ("x", "made", "scores")}
    rows = torch.arange(len(best["scores"]), device=best["scores"].device)
    for group in groups:
        own = torch.tensor(group, device=rows.device)
        rows[own] = _kept(own, torch.cat([own, own + len(rows)]), both["scores"])
    return {**{name: value[rows] for name, value in both.items()}, "start": best["start"]}


def _kept(own: torch.Tensor, among: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Which of `among` a group's samples `own` become: the highest, the first of equals. Who is still among them stays.

    So each sample's score never falls: one that goes is replaced by what scores higher.
    """
    order = scores[among].sort(descending=True, stable=True).indices
    chosen = among[order[:len(own)]]
    stays = torch.isin(own, chosen)
    found = own.clone()
    found[~stays] = chosen[~torch.isin(chosen, own)]
    return found


def _evaluated(draw: Draw, score: Score, x: torch.Tensor,
               differentiates: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What a run makes, its score, and the gradient of that where it is needed."""
    seen: list[torch.Tensor] = []

    def value(at: torch.Tensor) -> torch.Tensor:
        seen.append(_drawn(draw, at))
        return check_scores(called(score, seen[-1], label_of(score)), len(at), label_of(score))

    if not differentiates:
        with torch.no_grad():
            found = value(x)
        return seen[0], found, None
    both = slope(x, value)
    if both is None:
        raise NoEffect("no gradient comes through this run: give refine a differentiable one, such as "
                       "emag.samplers.searches.differentiable(model), or search without gradients, BestOf(8)")
    return seen[0].detach(), *both


def _digest(x: torch.Tensor, search: Search, groups: SharedRows) -> str:
    """What a file belongs to: the first noises, the search, and who shares."""
    shared = repr(groups) if any(len(group) > 1 for group in groups) else ""
    return hashlib.sha256(b"".join(Streams.of(x).keys) + f"{search!r}{shared}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class KeptSearch:
    """The file that a search goes on from; path None keeps nothing. digest: what it belongs to."""

    path: Path | None
    digest: str

    def write(self, done: int, best: Memory, memory: Memory) -> None:
        """Replace the file as a whole."""
        if self.path is not None:
            tensors = {f"{part}.{name}": value.clone() for part, values in (("best", best), ("memory", memory))
                       for name, value in values.items()}
            save_tensors(self.path, tensors, {"done": str(done), "search": self.digest})

    def read(self, memory: Memory) -> tuple[int, Memory, Memory]:
        """(runs done, the best so far, what to try next). Raises `BadValue` for a file of another search."""
        if self.path is None or not self.path.exists():
            return 0, {}, memory
        try:
            with safe_open(self.path, "pt") as file:
                facts, names = file.metadata() or {}, list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise BadValue(f"{self.path} is no file of a search: {error}") from error
        if facts.get("search") != self.digest:
            raise BadValue(f"{self.path} belongs to another search, or to other first noises: name another file")
        parts = {part: {name.removeprefix(f"{part}."): value.to(memory["x"].device) for name, value in tensors.items()
                        if name.startswith(f"{part}.")} for part in ("best", "memory")}
        return int(facts["done"]), parts["best"], parts["memory"]
