"""Cascade polynomial regression: DC-Solver's ratios for a CFG scale and a number of steps, without a search."""

from collections.abc import Sequence

from ..errors import BadValue
from .dc_solver import DCSolver

Fit = Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]
"""For each power i of the share of steps done: the quadratics a, b, c in steps / 50, highest power first."""

SD21: Fit = (
    ((1523.67662, -1111.474645, 198.383496), (-1346.089002, 1007.194941, -186.254758), (168.397302, -128.038949, 24.88479)),
    ((-8140.644019, 5906.748279, -1035.994112), (6941.413899, -5193.98066, 950.320565),
     (-848.210468, 650.690333, -121.286743)),
    ((13309.270385, -9616.670321, 1668.768596), (-11037.107794, 8256.666686, -1503.799204),
     (1293.974044, -999.562933, 188.221704)),
    ((-6747.421822, 4853.153053, -835.511679), (5489.115184, -4096.897218, 743.095341),
     (-619.561276, 480.149715, -90.896331)),
)
"""The authors' fit for Stable Diffusion 2.1. Large numbers that nearly cancel: of no use outside what it was fitted on."""

SCALES, STEPS = (1.5, 7.5), (5, 10)
"""CFG scales and numbers of steps inside which the fit is taken; its authors' own tables lie there."""


def predicted_ratios(scale: float, steps: int, table: Fit = SD21) -> DCSolver:
    """The solver with the ratios that the regression gives for a CFG scale and a number of steps.

    r_i = sum_m k_m (i / N)^m in step i of 1 to N, k_m = a y^2 + b y + c with y = scale / 12, and a, b, c quadratic in N / 50
    (arXiv 2409.03755, its code). The first two are 1. scale: 1.5 to 7.5; steps: N, 5 to 10. Raises `BadValue` outside;
    there, and on another model than the table's, `search_ratios` finds them.
    """
    if not SCALES[0] <= scale <= SCALES[1] or not STEPS[0] <= steps <= STEPS[1] or steps != int(steps):
        raise BadValue(f"the regression holds for scales {SCALES[0]} to {SCALES[1]} and {STEPS[0]} to {STEPS[1]} steps, got "
                       f"{scale} and {steps}: find the ratios by search_ratios")
    powers = [quadratic([quadratic(row, steps / 50) for row in rows], scale / 12) for rows in table]
    ratios = [sum(k * ((i + 1) / steps) ** m for m, k in enumerate(powers)) for i in range(int(steps))]
    return DCSolver(ratios=(1.0, 1.0, *ratios[2:]))


def quadratic(row: Sequence[float], x: float) -> float:
    """a x^2 + b x + c."""
    a, b, c = row
    return (a * x + b) * x + c
