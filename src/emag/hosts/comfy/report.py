"""What a run in ComfyUI did: the same numbers as everywhere, and the weak branch's last picture beside the clean one's."""

from dataclasses import dataclass

import torch

from ...core import Perturbation
from ...engine.stats import Stats, describe
from .run import Run
from .sites import Site

KEPT = 3
"""Reports of earlier runs that a model keeps: a workflow may have several samplers."""


@dataclass(frozen=True)
class Report:
    """One finished run. clean, weak: of its last step with a weak pass, what the network's prediction with and without the
    weak branch says the latents are in the end, on the CPU; None where it had no weak pass. blocks: those that branches pick
    among, or work on. worked: per evaluation the share of images in which a block did, by its number. made: the latents that
    the run ended with, on the CPU. combiner: the rule in the place of the sampler's cfg, None where that one combined.
    """

    stats: Stats
    clean: torch.Tensor | None
    weak: torch.Tensor | None
    blocks: tuple[int, ...]
    worked: tuple[dict[int, float], ...] = ()
    made: torch.Tensor | None = None
    combiner: str | None = None

    def __str__(self) -> str:
        lines = [str(self.stats)]
        if self.combiner:
            lines.append(f"  {self.combiner} combines: the sampler's cfg is not read")
        if self.weak is None:
            lines.append("  no weak branch was evaluated: weak and clean are the sampler's latents")
        return "\n".join(lines)

    def is_of(self, latents: torch.Tensor) -> bool:
        """Whether the run ended with these latents."""
        return self.made is not None and torch.equal(self.made, latents.cpu().to(self.made.dtype))


@dataclass
class Latest:
    """What the latest run of a patched model did, None before there was one and after one that failed; runs before it."""

    report: Report | None = None
    earlier: tuple[Report, ...] = ()

    def begin(self) -> None:
        """A run begins."""
        self.earlier = (*([self.report] if self.report else []), *self.earlier)[:KEPT]
        self.report = None

    def of(self, latents: torch.Tensor) -> Report | None:
        """The run that made these latents; the latest one where they came from none as they are."""
        own = (one for one in (self.report, *self.earlier) if one and one.is_of(latents))
        return next(own, self.report)


def report(run: Run, seconds: float, out: object) -> Report:
    """Read a finished run that ended with `out`. The device is waited for here, once."""
    site = next(iter(run.sites.found.values()))
    clean, weak = run.pair or (None, None)
    blocks = sorted({at for branch in site.states for at in (*branch.blocks, *branch.changes)})
    made = out.cpu() if isinstance(out, torch.Tensor) else None
    worked = tuple(_worked(site, branches, at) for at, branches in enumerate(run.evaluated))
    combiner = next((rule.name for rule in run.rules if rule.kind == "combining"), None)
    return Report(_stats(run, site, seconds), _out(run, clean), _out(run, weak), tuple(blocks), worked, made, combiner)


def _worked(site: Site, evaluated: tuple[Perturbation, ...], at: int) -> dict[int, float]:
    """The blocks in which the branches of an evaluation worked, those of the clean pass with them, each with its share of
    the images: a branch that picks worked in those that it picked, another one in all of its own."""
    found: dict[int, float] = {}
    for branch in (*(one for one in site.states if one.strong), *evaluated):
        blocks, pick = (*branch.blocks, *branch.changes), site.states[branch].picks[at]
        own = dict.fromkeys(blocks, 1.0)
        if pick is not None:  # [images], or [images, groups]: places among the branch's blocks
            images = pick.reshape(len(pick), -1)
            own = {block: float((images == i).any(1).float().mean()) for i, block in enumerate(branch.blocks)}
        found |= {block: max(share, found.get(block, 0.0)) for block, share in own.items()}
    return found


def _stats(run: Run, site: Site, seconds: float) -> Stats:
    passes, effects = run.passes, site.course.effects
    assert passes is not None
    plan = run.sites.plan
    as_planned = len(run.sites.found) == 1 and run.steps == len(run.levels.trajectory.index)
    return Stats(run.network.backbone.name, tuple(describe(rule) for rule in run.rules), run.images, run.steps,
                 passes.depth, passes.evaluations, plan.total if plan and as_planned else passes.evaluations,
                 passes.plain, _picks(site, run.steps),
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
