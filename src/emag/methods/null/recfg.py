"""Rectified guidance coefficients: an unconditional prediction whose mean is the conditional one's."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...core import COND, UNCOND, Branches, Rule, RunStart, Step
from ...errors import BadValue
from ..common.history import moves_on, spared

KEY = "ratios"


@dataclass(frozen=True)
class ReCFG(Rule):
    """ReCFG: scale the unconditional prediction, entry by entry, so that guidance leaves the mean where it was.

    CFG moves the mean of what is sampled: E[u + w (c - u)] is E[c] for no w but 1. With u <- k u, k = E[c] / E[u] at each
    step and entry, it is for all of them. The means are measured once for a network, a condition and a number of steps
    (`emag.methods.null.recfg.Means`). On the path's straight space: epsilon as published, velocity for flow models. It
    combines nothing: whatever does sees the new u.

    Args:
        ratios: a safetensors file whose tensor "ratios" is k, [steps, ...], or [1, ...] for all steps, each broadcast over
            a sample's own dimensions. Needed. Raises `BadValue` before a run for another number of steps.

    >>> import emag
    >>> emag.ReCFG("ratios.safetensors").kind  # emag.guide(pipe, emag.ReCFG("ratios.safetensors"), emag.CFG(4.0))
    'null'
    """

    ratios: str = ""

    name = "recfg"
    paper = "arXiv 2410.18737"
    equation = "u <- k u, k = E[c] / E[u]"
    kind = "null"
    space = "path"
    required = {"ratios": "recfg=ratios.safetensors"}

    def __post_init__(self) -> None:
        if not self.ratios:
            raise BadValue("recfg needs ratios=..., a file that emag.methods.null.recfg.Means writes")

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        read_ratios(self.ratios)

    def fits_run(self, start: RunStart) -> None:
        found = read_ratios(self.ratios)
        if len(found) not in (1, start.first.count):
            raise BadValue(f"{self.ratios} holds ratios of {len(found)} steps and the run has {start.first.count}")
        try:
            torch.broadcast_shapes(found.shape[1:], start.first.x.shape[1:])
        except RuntimeError:
            raise BadValue(f"{self.ratios} holds ratios for samples of {tuple(found.shape[1:])}, and this run's are "
                           f"{tuple(start.first.x.shape[1:])}") from None

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches:
            return None
        null = branches[UNCOND]
        if "ratios" not in state:  # read once a run
            state["ratios"] = read_ratios(self.ratios).to(null.device)
        ratios = state["ratios"]
        scaled = (null.double() * ratios[step.index if len(ratios) > 1 else 0].double()).to(null.dtype)
        return torch.where(spared(branches), null, scaled)  # c stands there for a u that was not evaluated: there is no push


@dataclass(frozen=True)
class Means(Rule):
    """The means of both predictions, for `ReCFG`: adds up those of every run, and changes nothing.

        means = Means()
        with emag.guide(pipe, means, emag.CFG(4.0)):
            pipe(prompts, num_inference_steps=28)          # as many calls as you like; 500 images in the paper
        means.save("ratios.safetensors")

    What it holds is no plain data: it belongs in no recipe. Raises `BadValue` on a step without an unconditional prediction.

    Args:
        sums: of c and of u by step, each [...] of one sample, over all images so far.
    """

    sums: dict[int, list[torch.Tensor]] = field(default_factory=dict, repr=False, compare=False)

    name = "means"
    paper = "arXiv 2410.18737"
    equation = "u"
    kind = "null"
    space = "path"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches:
            raise BadValue("means needs the unconditional prediction of every step: use a constant scale and no saver")
        if moves_on(step, state):
            found = [branches[name].detach().double().sum(0).cpu() for name in (COND, UNCOND)]
            kept = self.sums.get(step.index)
            self.sums[step.index] = found if kept is None else [a + b for a, b in zip(kept, found, strict=True)]
        return None

    def ratios(self, least: float = 1e-4) -> torch.Tensor:
        """k [steps, ...]; 1 where the mean of u is so near to 0 that it tells nothing: below `least` times its largest.

        Raises `BadValue` where nothing was seen.
        """
        if not self.sums:
            raise BadValue("means has seen no run: call the pipeline under it first")
        found = []
        for step in sorted(self.sums):
            cond, null = self.sums[step]
            told = null.abs() > least * null.abs().max()
            found.append(torch.where(told, cond / torch.where(told, null, 1.0), 1.0))
        return torch.stack(found)

    def save(self, path: str | Path) -> None:
        """Write `ratios()` as the file that `ReCFG` reads."""
        save_file({KEY: self.ratios().float().contiguous()}, path)


def read_ratios(path: str) -> torch.Tensor:
    """The ratios [steps, ...] of a file. Raises `BadValue` where it cannot be read, or holds something else."""
    try:
        tensors = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise BadValue(f"cannot read the ratios {path}: {str(error).splitlines()[0]}") from None
    if set(tensors) != {KEY} or not tensors[KEY].ndim or not tensors[KEY].isfinite().all():
        raise BadValue(f"{path} holds no ratios: expected one finite tensor {KEY!r} [steps, ...], got "
                       f"{', '.join(sorted(tensors)[:4]) or 'nothing'}")
    return tensors[KEY]
