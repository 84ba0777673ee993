"""`guided`: a plain denoiser function under a guidance, for loops that have their own sampler."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..core import COND, Rule, Score
from ..engine.plan import check_lone, check_spaces
from ..engine.reading import read_network
from ..engine.trajectory import Trajectory
from ..errors import BadValue
from ..maths.predictions import SPACES, Space
from ..samplers.path import Path
from .defaults import check_required, resolve, resolved
from .described import Described, find
from .function import Denoiser, Function
from .function_checks import check_given, check_outside, check_types
from .given import scores_of
from .network_function import InsideNetwork
from .outside import Outside
from .sights import Decode, Sights, check_sparing, itself

PLAIN = "a plain function"
"""What a denoiser is where its network is not known, for defaults and errors."""


def guided(denoiser: Denoiser, *rules: Rule, path: Path | Sequence[float], prediction: Space = "flow",
           conditions: Mapping[str, Any] | None = None, time: Callable[[float, float], float] | None = None,
           masks: Mapping[str, torch.Tensor] | None = None, grid: tuple[int, int, int] | None = None,
           backbone: Described | None = None, scores: Mapping[str, Score] | None = None,
           decode: Decode | None = None, image: torch.Tensor | None = None) -> Function:
    """`denoiser` under `rules`: call the result as `model(x, i)` for the guided prediction at level i of the path.

    path: the N + 1 noise levels of the run, a `Path`, or falling sigmas of a straight (flow) path. prediction: the space of
    the denoiser, "flow", "epsilon", "v" or "x0". conditions: what the denoiser gets as its third argument, by name: "cond",
    "uncond" where a rule combines, and whatever other names the rules use. time: (alpha, sigma) -> its second argument; None
    passes sigma. masks, grid: see `emag.guide` and `Step`. backbone: the network the denoiser calls, for rules that look
    into it: a module of a known class, (module, `Backbone` entry) for another, or, where the denoiser is a module itself,
    the entry or the class name of one part. Each call of the denoiser must call it once, for one condition. scores: those
    that rules name. decode: x0 [batch, ...] -> what scores are given; None gives them x0 itself. image: the clean x0 that
    the run starts from, with noise on it, where there is one; shaped as x.

    One object serves one batch at a time; a call at level 0, or at a noisier level than the one before, starts a new run.
    Raises `BadValue` and `Unsupported` for what cannot work, before any evaluation.
    """
    if prediction not in SPACES:
        raise BadValue(f"prediction must be one of {', '.join(SPACES)}, got {prediction!r}")
    if not isinstance(path, Path) and prediction != "flow":
        raise BadValue(f"a list of sigmas means a flow path; for {prediction} say path=Path.variance_preserving(sigmas) or "
                       "Path.edm(sigmas), from emag.samplers")
    levels = path if isinstance(path, Path) else Path.flow(tuple(path))
    check_types(rules)
    found = None if backbone is None else find(denoiser, backbone)
    if found is None:
        check_outside(rules)
    concrete = (resolved(rules, (), read_network(*found)) if found else
                [resolve(rule, (PLAIN,), 0) for rule in rules])
    for rule in concrete:
        check_required(rule, PLAIN)
    active = tuple(rule for rule in concrete if not rule.neutral)
    given = {COND: None, **(conditions or {})}
    trajectory = _trajectory(levels, prediction)
    check_given(active, given, trajectory, inside=found is not None)
    check_spaces(active, trajectory)
    check_lone(active, trajectory)
    check_sparing(active, decode)
    sight = Sights(scores_of(active, dict(scores or {})), decode or itself)
    network = InsideNetwork(*found, active, trajectory, grid) if found else Outside()
    made = Function(denoiser, active, levels, trajectory, given, time or _sigma, dict(masks or {}), grid, network, sight)
    made.image = image
    return made


def _sigma(alpha: float, sigma: float) -> float:
    return sigma


def _trajectory(path: Path, space: Space) -> Trajectory:
    alphas, sigmas, count = path.alphas[:-1], path.sigmas[:-1], len(path)
    times = sigmas if path.fits("flow") else tuple(1 - i / count for i in range(count))
    return Trajectory(times, tuple(range(count)), times, alphas, sigmas, space, path.at(-1))
