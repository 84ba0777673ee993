"""Score distillation in one table: what moves a rendered picture z, as coefficients of predictions at z_t.

The gradient handed to a renderer is omega(t) r, r a sum of predictions, all as epsilons. In the table, at z_t: cond, null
and negative are the frozen network's for the prompt, the empty and a negative one, other that for a further prompt;
adapted is the trained one's (VSD's phi); noise is the noise itself. source_cond and source_null are of the picture to be
edited, at the same noise and time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..errors import BadValue
from ..maths.predictions import Space, convert
from ..maths.vectors import norm, project, widened
from .rows import fixed

Coefficients = dict[str, float]
PREDICTIONS = ("cond", "null", "negative", "other", "adapted", "noise", "source_cond", "source_null")


@dataclass(frozen=True)
class ScoreResidual:
    """One row.

    coefficients: of the predictions, from its knobs. beyond: what is no sum of predictions, from them, the noised picture
    and source [batch, ...], and the same knobs; None where all is.
    """

    name: str
    paper: str
    coefficients: Callable[..., Coefficients]
    beyond: Callable[..., torch.Tensor] | None = None


def _cfg(scale: float) -> Coefficients:
    return {"cond": scale, "null": 1 - scale}


def _sds(scale: float = 100.0) -> Coefficients:
    return {**_cfg(scale), "noise": -1}


def _additive_sds(scale: float = 99.0) -> Coefficients:
    return _sds(1 + scale)


def _vsd(scale: float = 7.5) -> Coefficients:
    return {**_cfg(scale), "adapted": -1}


def _csd() -> Coefficients:
    return {"cond": 1, "null": -1}


def _csd_negatives(done: float, cond: float = 1.0) -> Coefficients:
    # in the first stage the null's part goes over to the negative's; done: share of its 5000 iterations
    return {"cond": cond, "null": done - 1, "negative": -done}


def _nfsd(time: float, scale: float = 7.5) -> Coefficients:
    # late in time the empty prompt's prediction is taken for the pull of the domain as it is
    return _cfg(scale) if time < 0.2 else {**_cfg(scale), "negative": -1}


def _ssd(time: float) -> Coefficients:
    return {"cond": 1, "null": -1, "noise": 0} if time > 0.1 else {"cond": 0, "null": 0, "noise": 0}


def _orthogonal(eps: Mapping[str, torch.Tensor], x: torch.Tensor, source: torch.Tensor | None, time: float) -> torch.Tensor:
    if time > 0.1:
        return torch.zeros_like(x)
    # the part of the prediction across the noise, as long as the difference of predictions is
    across = project(eps["cond"], eps["noise"])[1]
    return across * norm(eps["cond"] - eps["null"]) / norm(across).clamp(min=torch.finfo(across.dtype).tiny)


def _dsd(classifier: float, variational: float) -> Coefficients:
    return {"cond": classifier + variational, "null": -classifier, "adapted": -variational}


def _self_distillation(scale: float = 100.0) -> Coefficients:
    return {**_cfg(scale), "other": -1}


def _dds(scale: float = 7.5) -> Coefficients:
    return {**_cfg(scale), "source_cond": -scale, "source_null": scale - 1}


def _ssd_edit(time: float, cross: float = 3.75, source: float = 1.0, prompt: float = 5.5,
              regular: float = 0.075) -> Coefficients:
    return {"cond": cross + prompt, "null": -prompt, "other": source - cross, "source_null": -source}


def _near_source(eps: Mapping[str, torch.Tensor], x: torch.Tensor, source: torch.Tensor | None, time: float,
                 regular: float = 0.075, **_: float) -> torch.Tensor:
    assert source is not None  # source_null is asked for, and was converted at it
    return regular * math.exp(time) * (x - source)


_ROWS = (
    ScoreResidual("sds", "arXiv 2209.14988", _sds),
    ScoreResidual("sds-additive", "arXiv 2209.14988, s = w - 1", _additive_sds),
    ScoreResidual("vsd", "arXiv 2305.16213", _vsd),
    ScoreResidual("csd", "arXiv 2310.19415", _csd),
    ScoreResidual("csd-negatives", "arXiv 2310.19415", _csd_negatives),
    ScoreResidual("nfsd", "arXiv 2310.17590", _nfsd),
    ScoreResidual("ssd", "arXiv 2312.09305", _ssd, _orthogonal),
    ScoreResidual("asd", "arXiv 2312.00739", _vsd),
    ScoreResidual("dsd", "arXiv 2411.01602", _dsd),
    ScoreResidual("self-distillation", "arXiv 2312.07539", _self_distillation),
    ScoreResidual("ssd-edit", "arXiv 2507.09168", _ssd_edit, _near_source),
    ScoreResidual("dds", "arXiv 2304.07090", _dds),
)
RESIDUALS: dict[str, ScoreResidual] = {row.name: row for row in _ROWS}


def score_residual(name: str, predictions: Mapping[str, torch.Tensor], x: torch.Tensor, alpha: float, sigma: float,
                   space: Space = "epsilon", source: torch.Tensor | None = None, **knobs: float) -> torch.Tensor:
    """r of a row of `RESIDUALS`, [batch, ...], in units of epsilon; no gradient.

    predictions: by the names of the table, [batch, ...], in `space`; the noise stands among them in that space too (for a
    flow it is epsilon less the picture). x: z_t = alpha z + sigma epsilon. source: the same of the picture to be edited.
    knobs: of the row, e.g. scale (w; 1 is off) or time (1 is pure noise). Raises `BadValue` for predictions the row has
    no use for, and for those it lacks.
    """
    if name not in RESIDUALS:
        raise BadValue(f"there is no residual {name!r}; there are {', '.join(RESIDUALS)}")
    row = RESIDUALS[name]
    coefficients = row.coefficients(**knobs)
    _check_names(name, set(coefficients), set(predictions), source is not None)
    eps = {key: _epsilon(value, fixed(_place(key, x, source)), alpha, sigma, space) for key, value in predictions.items()}
    total = torch.stack([factor * eps[key] for key, factor in coefficients.items()]).sum(0)
    if row.beyond is None:
        return total
    return total + row.beyond(eps, fixed(x), None if source is None else fixed(source), **knobs)


def guided_residual(guided: torch.Tensor, baseline: torch.Tensor | None, x: torch.Tensor, alpha: float, sigma: float,
                    space: Space = "epsilon") -> torch.Tensor:
    """Any guidance as a residual: its prediction less a baseline, [batch, ...], in units of epsilon; no gradient.

    guided: e.g. `guided_once(rules, branches, step)`. baseline: the noise (as in SDS), the trained network's prediction
    (VSD), that for another prompt or picture (at the same x_t); None is nothing. Arguments else as in `score_residual`.
    """
    made = _epsilon(guided, fixed(x), alpha, sigma, space)
    return made if baseline is None else made - _epsilon(baseline, fixed(x), alpha, sigma, space)


Weighting = dict[str, Callable[[float, float], float]]
WEIGHTS: Weighting = {
    "sds": lambda alpha, sigma: sigma**2, "uniform": lambda alpha, sigma: 1.0,
    "fantasia3d": lambda alpha, sigma: alpha * sigma**2, "asd": lambda alpha, sigma: sigma / alpha,
}
"""omega(t), from alpha and sigma: for alpha^2 = abar 1 - abar, 1, sqrt(abar) (1 - abar), sqrt((1 - abar) / abar)."""


def as_loss(z: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient by the pictures z [batch, ...] is `gradient` / batch: |z - sg(z - gradient)|^2 / (2 batch)."""
    return 0.5 * (widened(z) - fixed(z - gradient)).square().sum() / len(z)


def variational_loss(adapted: torch.Tensor, noise: torch.Tensor, cond: torch.Tensor | None = None,
                     gamma: float = 0.0) -> torch.Tensor:
    r"""What trains the adapted network of VSD and ASD (arXiv 2312.00739): $|e_\phi - e|^2 + \gamma |e_\phi - e_c|^2$.

    gamma 0 is VSD's; ASD's is -0.75. Its optimum is $(e_g + \gamma e_c) / (1 + \gamma)$, e_g the score of the renders. At -1
    and below there is none: refused (`BadValue`).
    """
    if not gamma > -1 or (gamma != 0 and cond is None):
        raise BadValue(f"gamma must be above -1, where the loss has an optimum, and other than 0 with cond; got {gamma}")
    loss = (widened(adapted) - fixed(noise)).square().mean()
    return loss if gamma == 0 or cond is None else loss + gamma * (widened(adapted) - fixed(cond)).square().mean()


def _epsilon(p: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: Space) -> torch.Tensor:
    return convert(fixed(p), x, alpha, sigma, space, "epsilon")


def _place(key: str, x: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor:
    return source if key.startswith("source_") and source is not None else x


def _check_names(name: str, needed: set[str], given: set[str], has_source: bool) -> None:
    if needed != given:
        raise BadValue(f"{name} needs the predictions {', '.join(sorted(needed))}, got {', '.join(sorted(given)) or 'none'}")
    if has_source != any(key.startswith("source_") for key in needed):
        raise BadValue(f"{name} {'has no use for' if has_source else 'needs'} the noised source picture")
