"""Coefficients for LinearAG from recorded runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Rule, Step
from ...errors import BadValue
from .linear_ag import LinearAG, Pair, regressors


@dataclass(frozen=True)
class Record(Rule):
    """A recorder: keeps (c, u) of every step of every run, and changes nothing.

    For `fit`:

        seen = Record()
        with emag.guide(pipe, seen, emag.CFG(4.0)):
            pipe(prompts, num_inference_steps=28)          # as many calls as you like
        rule = fit(seen.runs)
        Path("linear_ag.json").write_text(json.dumps(emag.records.recipe.to_data([rule])))

    From then on say `with emag.guide(pipe, *emag.records.recipe.read("linear_ag.json"), emag.CFG(4.0))`, on 28 steps.
    What it holds is no plain data: it belongs in no recipe. Raises `BadValue` on a step without an unconditional
    prediction.

    Args:
        runs: what was kept, one list of pairs (c, u) per run, as x0 on the CPU.
    """

    runs: list[list[Pair]] = field(default_factory=list, repr=False, compare=False)

    name = "record"
    paper = "arXiv 2312.12487"
    equation = "u"
    kind = "null"
    space = "x0"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches:
            raise BadValue("record needs the unconditional prediction of every step: use a constant scale and no saver")
        if "run" not in state:
            state["run"] = []
            self.runs.append(state["run"])
        state["run"].append((branches[COND].detach().cpu(), branches[UNCOND].detach().cpu()))
        return None


def fit(runs: Sequence[Sequence[Pair]], steps: Iterable[int] | None = None, pairs: int = 1) -> LinearAG:
    """Least squares for the coefficients of `LinearAG`, one set for each replaced step, over all runs and all elements.

    runs: as `Record` keeps them, all of the same number of steps. steps: the steps to replace; None: those of
    `LinearAG()`. What came before a step is taken as recorded, true where its neighbours are evaluated. Raises `BadValue`
    without runs, for runs of different lengths and for steps they do not have.
    """
    counts = {len(run) for run in runs}
    if len(counts) != 1:
        raise BadValue(f"fit needs recorded runs of one and the same number of steps, got {sorted(counts) or 'none'}")
    count = counts.pop()
    default = LinearAG()
    usual = (i for i in range(pairs, count) if i % default.every and i < default.until * count)
    chosen = tuple(usual if steps is None else steps)
    if not chosen or any(not pairs <= step < count for step in chosen):
        raise BadValue(f"fit can replace steps {pairs} to {count - 1} of these runs, got {chosen or 'none'}")
    found = tuple(k for step in chosen for k in _solved(runs, step, pairs))
    return LinearAG(found, pairs=pairs, steps=chosen, count=count)


def _solved(runs: Sequence[Sequence[Pair]], step: int, pairs: int) -> list[float]:
    columns = [regressors(run[step][0], run[step - pairs:step]) for run in runs]
    inputs = torch.stack([torch.cat([value.flatten() for value in column]) for column in zip(*columns)], 1)
    wanted = torch.cat([run[step][1].flatten() for run in runs])
    # gelsd gives the smallest coefficients where regressors depend on each other
    return torch.linalg.lstsq(inputs.double().cpu(), wanted.double().cpu()[:, None], driver="gelsd").solution[:, 0].tolist()
