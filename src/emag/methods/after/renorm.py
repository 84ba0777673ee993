"""Guided predictions brought back to the size of the conditional one."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, Branches, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.layout import pack, unpack
from ...maths.vectors import divided, norm, widened


@dataclass(frozen=True)
class CFGRenorm(Rule):
    """CFG renormalisation: no guided prediction is longer than the conditional one.

    In the network's own space, as Lumina-Image 2.0 has it; norms per sample. Works on the combined prediction: name a
    combining rule before it.

    Args:
        ratio: rho, the longest that is allowed, as a multiple of the conditional norm; above 0.

    >>> import emag
    >>> emag.CFGRenorm().ratio
    1.0
    """

    ratio: float = 1.0

    name = "cfg-renorm"
    paper = "arXiv 2503.21758"
    equation = "g min(1, rho |c| / |g|)"
    kind = "after"

    def __post_init__(self) -> None:
        if self.ratio <= 0:
            raise BadValue(f"cfg-renorm ratio must be above 0, got {self.ratio}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        allowed = self.ratio * norm(branches[COND].float())
        return (pred * divided(allowed, norm(pred.float()), otherwise=1.0).clamp(max=1)).to(pred.dtype)


@dataclass(frozen=True)
class CFGNorm(Rule):
    """CFG-norm: at no place is the guided clean sample longer, over its channels, than the conditional one.

    The limit of `CFGRenorm` for each pixel of the latents apart. Works on the combined prediction: name a combining rule
    before it.

    Args:
        share: how much of it, in [0, 1]; 0 is off.

    >>> import emag
    >>> emag.CFGNorm(0.0).neutral
    True
    """

    share: float = 1.0

    name = "cfg-norm"
    paper = "ComfyUI's CFGNorm"
    equation = "g (1 - share + share min(1, |c| / |g|)), norms over channels, in x0"
    kind = "after"
    space = "x0"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadValue(f"cfg-norm share must lie in [0, 1], got {self.share}")

    @property
    def neutral(self) -> bool:
        return self.share == 0

    def fits_run(self, start: RunStart) -> None:
        unpack(start.first.x, start.first)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        guided, clean = (unpack(widened(x), step) for x in (pred, branches[COND]))
        ratio = divided(clean.norm(dim=1, keepdim=True), guided.norm(dim=1, keepdim=True), otherwise=1.0).clamp(max=1)
        return pack(guided * (1 + self.share * (ratio - 1)), step).to(pred.dtype)


@dataclass(frozen=True)
class EPCFG(Rule):
    """Energy-preserving CFG: give the guided clean sample the energy of the conditional one.

    Energies are sums of squares of the middle values, those between two percentiles of each sample, so that a few
    extreme ones do not decide. Works on the combined prediction: name a combining rule before it.

    Args:
        low: the lower percentile, as a fraction in [0, 1].
        high: the upper percentile, as a fraction in [0, 1], above `low`. 0.45 and 0.55 in a port; 0 and 1 take the whole
            energy.

    >>> import emag
    >>> emag.EPCFG(0.0, 1.0).high
    1.0
    """

    low: float = 0.45
    high: float = 0.55

    name = "ep-cfg"
    paper = "arXiv 2412.09966"
    equation = "g sqrt(E(c) / E(g)), in x0"
    kind = "after"
    space = "x0"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise BadValue(f"ep-cfg needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        ratio = divided(self._energy(branches[COND]), self._energy(pred), otherwise=1.0).sqrt()
        return (pred * ratio.view(-1, *[1] * (pred.ndim - 1)).to(pred.dtype)).to(pred.dtype)

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of the squares between the two percentiles, of each sample [batch]."""
        sizes = x.flatten(1).abs()
        first, last = (int(share * (sizes.shape[1] - 1)) for share in (self.low, self.high))
        # those up to the upper percentile, and of them those from the lower one on: no order among them is needed
        below = sizes.topk(last + 1, dim=1, largest=False, sorted=False).values
        middle = below.topk(last - first + 1, dim=1, sorted=False).values
        return middle.double().square().sum(1)
