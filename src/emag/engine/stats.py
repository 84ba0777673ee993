"""What a run did, as plain values: read from the device once, at its end."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from ..core import Rule
from ..schedules import label
from .run import Run

LINES, ACROSS = 40, 6
"""Lines that a run is told in, and images that are told apart in each."""


@dataclass(frozen=True)
class Stats:
    """One finished run.

    evaluations, planned: block evaluations per image (one block on one batch row). clean: those of the host alone.
    picks: per evaluation the block that the first branch that picks one picked for each image, None where none was,
    or several at once.
    effects: per evaluation |cond - weak| / |cond| for each image, None without weak pass. backward: block evaluations among
    `evaluations` that were recorded for a backward pass. again: those that backward passes evaluated once more, beside them.
    """

    model: str
    rules: tuple[str, ...]
    images: int
    steps: int
    depth: int
    evaluations: int
    planned: int
    clean: int
    picks: tuple[tuple[int, ...] | None, ...]
    effects: tuple[tuple[float, ...] | None, ...]
    seconds: float
    backward: int = 0
    again: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return asdict(self)

    @property
    def effect(self) -> float:
        """Mean size of the effect over the steps that had a weak pass."""
        values = [value for row in self.effects if row for value in row]
        return sum(values) / len(values) if values else 0.0

    def __str__(self) -> str:
        extra = f"{self.evaluations / self.clean - 1:+.1%}" if self.clean else "no"
        lines = [f"emag run: {', '.join(self.rules) or 'nothing active'} on {self.model}",
                 f"  {self.images} image(s), {self.steps} steps, {self.seconds:.2f} s",
                 f"  block evaluations per image: {self.evaluations} (planned {self.planned}; {self.clean} clean, {extra})"]
        if any(row is not None for row in self.effects):
            lines.append(f"  effect |cond - weak| / |cond|: {self.effect:.3g} on average")
            lines += self._steps([i for i, effect in enumerate(self.effects) if effect is not None])
        return "\n".join(lines)

    def _steps(self, weak: list[int]) -> list[str]:
        """The steps with a weak pass, each in its line; many steps or images are taken together."""
        size = -(-len(weak) // LINES)
        if size == 1 and self.images <= ACROSS:
            return ["  step  picked block per image   effect per image", *(self._line(i) for i in weak)]
        groups = [weak[at:at + size] for at in range(0, len(weak), size)]
        return ["  steps      effect  picked blocks (times)", *(self._group(group) for group in groups)]

    def _line(self, i: int) -> str:
        picked, effect = self.picks[i], self.effects[i] or ()
        blocks = "several" if picked is None else " ".join(map(str, picked))
        return f"  {i:4d}  {blocks:<24} {' '.join(f'{value:.3f}' for value in effect)}"

    def _group(self, steps: list[int]) -> str:
        """Several steps in a line: the mean effect, and how often each block was picked."""
        effects = [value for i in steps for value in self.effects[i] or ()]
        counts = Counter(block for i in steps for block in self.picks[i] or ())
        blocks = " ".join(f"{block} ({counts[block]})" for block in sorted(counts)) or "all"
        name = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
        return f"  {name:<9}  {sum(effects) / len(effects):.4f}  {blocks}"


def stats(run: Run, seconds: float) -> Stats:
    """Read a finished run. The device is waited for here, once."""
    plan = run.course.plan
    return Stats(run.network.backbone.name, tuple(describe(rule) for rule in run.rules), run.course.images, run.course.seen,
                 run.network.depth, run.passes.evaluations, plan.total if plan else 0, plan.host if plan else 0,
                 _picks(run), tuple(None if e is None else tuple(e.tolist()) for e in run.course.effects), seconds,
                 run.passes.recorded, run.passes.again)


def _picks(run: Run) -> tuple[tuple[int, ...] | None, ...]:
    picking = ((b, s) for b, s in run.course.states.items() if any(pick is not None for pick in s.picks))
    branch, state = next(picking, (None, None))
    if branch is None or state is None:
        return (None,) * run.course.seen
    rows = run.view.rows("both", 2 * run.course.images).cond if branch.all_rows else slice(None)
    return tuple(None if pick is None or pick.ndim > 1 else tuple(branch.blocks[i] for i in pick[rows].tolist())
                 for pick in state.picks)


def describe(rule: Rule) -> str:
    """A rule in a few letters, e.g. "emag 1.5 query"."""
    parts = [rule.name, label(getattr(rule, "scale", None)), str(getattr(rule, "variant", ""))]
    return " ".join(part for part in parts if part)
