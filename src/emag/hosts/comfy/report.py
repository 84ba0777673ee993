"""What a run in ComfyUI did: the same numbers as everywhere, and the weak branch's last picture beside the clean one's."""

from dataclasses import dataclass

import torch

from ...engine.stats import Stats, describe
from .run import Run
from .sites import Site


@dataclass(frozen=True)
class Report:
    """One finished run. clean, weak: of its last step with a weak pass, what the network's prediction with and without the
    weak branch says the latents are in the end, on the CPU; None where it had no weak pass. blocks: those a branch picks
    among, or works on.
    """

    stats: Stats
    clean: torch.Tensor | None
    weak: torch.Tensor | None
    blocks: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.stats)


def report(run: Run, seconds: float) -> Report:
    """Read a finished run. The device is waited for here, once."""
    site = next(iter(run.sites.found.values()))
    clean, weak = run.pair or (None, None)
    blocks = sorted({at for branch in site.states for at in (*branch.blocks, *branch.changes)})
    return Report(_stats(run, site, seconds), _out(run, clean), _out(run, weak), tuple(blocks))


def _stats(run: Run, site: Site, seconds: float) -> Stats:
    passes, effects = run.passes, site.course.effects
    assert passes is not None
    plan = run.sites.plan
    as_planned = len(run.sites.found) == 1 and run.steps == len(run.levels.trajectory.index)
    return Stats(run.network.backbone.name, tuple(describe(rule) for rule in run.rules), run.images, run.steps,
                 passes.depth, passes.evaluations, plan.total if plan and as_planned else passes.evaluations,
                 plan.host if plan and as_planned else passes.clean_evaluations, _picks(site, run.steps),
                 tuple(None if one is None else tuple(one.tolist()) for one in effects), seconds)


def _picks(site: Site, steps: int) -> tuple[tuple[int, ...] | None, ...]:
    found = [(branch, state) for branch, state in site.states.items() if any(pick is not None for pick in state.picks)]
    if not found:
        return (None,) * steps
    branch, state = found[0]
    return tuple(None if pick is None or pick.ndim > 1 else tuple(branch.blocks[i] for i in pick.tolist())
                 for pick in state.picks)


def _out(run: Run, latents: torch.Tensor | None) -> torch.Tensor | None:
    return None if latents is None else run.setting.out(latents.float()).cpu()
