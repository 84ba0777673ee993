"""Recipes by name: the combinations that papers report, with their values.

    with emag.guide(pipe, *emag.recipes["emag+apg"].rules): ...

Parameters that are not named take the model's defaults (`emag.defaults`). A recipe without a combining rule leaves that to
the pipeline's own CFG. Guidance by several conditions needs conditions of yours: see `emag.methods.combining.compositional`.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from ..core import Rule
from ..errors import BadValue
from ..near import choices
from .recipe import from_data

Value = TypeVar("Value")
Data = tuple[dict[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Recipe:
    """One guidance as data, where its values come from, and what to know before using it."""

    data: Data
    source: str
    note: str = ""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in order, ready for `emag.guide`."""
        return from_data(list(self.data))


class Named(dict[str, Value]):
    """A dict that says which names there are where it does not have one: `BadValue`."""

    def __missing__(self, name: str) -> Value:
        raise BadValue(f"there is no recipe {name!r}; {choices(name, self)}")


def _cfg(schedule: str, **values: Any) -> dict[str, dict[str, Any]]:
    """CFG under a schedule."""
    return {"cfg": {"scale": {"schedule": schedule, **values}}}


def _plain(name: str) -> dict[str, dict[str, Any]]:
    """A method with the defaults of the model."""
    return {name: {}}


EMAG, CFG, APG, CADS = _plain("emag"), _plain("cfg"), _plain("apg"), _plain("cads")
_EMAG, _SCRIPTS = "arXiv 2512.17303", "arXiv 2512.17303, values of its scripts"

recipes: Named[Recipe] = Named({
    "emag": Recipe((EMAG,), _EMAG, "its variant on queries; the pipeline's own CFG combines"),
    "emag-map": Recipe(({"emag": {"variant": "map"}},), _EMAG, "whole rows of the attention map"),
    "emag-image": Recipe(({"emag": {"variant": "image"}},), _EMAG, "the part of the map among image tokens"),
    "emag+cfg": Recipe((EMAG, CFG), _EMAG, "equations 14 and 15"),
    "emag+apg": Recipe((EMAG, APG), _SCRIPTS, "in true x0, unlike the SD3 script"),
    "emag+cads": Recipe((CADS, EMAG, CFG), _SCRIPTS, "one noise for the clean and the weak pass, unlike the SD3 script"),
    "cfg": Recipe((CFG,), "arXiv 2207.12598", "the scale is the model's default"),
    "apg": Recipe((APG,), "arXiv 2410.02416, values of EMAG's scripts; elsewhere untested"),
    "cads": Recipe((CADS, CFG), "arXiv 2310.17347, values of EMAG's scripts; elsewhere the paper's for SD2.1, as quoted"),
    "tcfg": Recipe((_plain("tcfg"), CFG), "arXiv 2503.18137", "has no parameter of its own"),
    "cfg-zero*": Recipe((_plain("zero-star"), CFG, _plain("zero-init")), "arXiv 2503.18886",
                        "for velocities; 4 % of the steps are zeroed"),
    "interval-edm2": Recipe((_cfg("interval", scale=2.0, low=0.19, high=1.61),), "arXiv 2404.07724, EDM2-XXL",
                            "bounds unconfirmed; they agree with the step indices of the authors' code"),
    "interval-sdxl": Recipe((_cfg("interval", low=0.28, high=5.42),), "arXiv 2404.07724, SDXL, bounds unconfirmed"),
    "sgg": Recipe(({"pag": {"scale": {"schedule": "interval", "low": 0.0, "high": 0.2, "unit": "sigma"}}},
                   _cfg("interval", low=0.2, high=1.0, unit="sigma")), "arXiv 2603.20584, the switch at 0.2",
                  "CFG above, away from a weak branch below; which one the paper has is unconfirmed, here PAG's"),
    "early-high": Recipe((_cfg("interval", low=0.0, high=0.5, unit="progress", outside=0.0),),
                         "arXiv 2602.00716, which switches at half to seven tenths of the run",
                         "high guidance first, the unconditional prediction in the late window"),
    "schedule-linear": Recipe((_cfg("curve", shape="linear"),), "arXiv 2404.13040",
                              "rising; which of two scale conventions the paper plots is unconfirmed"),
    "schedule-cosine": Recipe((_cfg("curve", shape="cosine"),), "arXiv 2404.13040",
                              "rising; which of two scale conventions the paper plots is unconfirmed"),
    "mdt": Recipe((_cfg("curve", scale=3.8, shape="power-cosine", power=4.0),), "MDT's published code, for FID",
                  "4.0 in its demo"),
    "beta-cfg": Recipe((_cfg("beta-cfg", scale=7.5, a=2.0, b=2.0, gamma=1.0),), "arXiv 2502.10574, its command line",
                       "its page has b = 3; the first and the last step are unconditional"),
    "mambo-g": Recipe((_cfg("mambo-g", scale=10.0, alpha=8.0),), "arXiv 2508.03442, values of diffusers"),
    "cfg++": Recipe((_cfg("cfg++", scale=0.6),), "arXiv 2406.08070",
                    "the scale is its lambda; exact with first-order deterministic samplers (DDIM, Euler)"),
    "rescale": Recipe((CFG, {"rescale": {"phi": 0.7}}), "arXiv 2305.08891, phi of the diffusers examples"),
    "ezaudio": Recipe(({"cfg": {"scale": 5.0}}, {"rescale": {"phi": 0.75}}), "arXiv 2409.10819, its API", "100 DDIM steps"),
    "imagen": Recipe((CFG, {"dynamic-threshold": {"percentile": 0.995}}), "arXiv 2205.11487, percentile of diffusers",
                     "for models of pixels in [-1, 1]; flattens latents"),
    "fdg": Recipe(({"fdg": {"scales": [10.0, 5.0]}},), "arXiv 2506.19713, SDXL, as diffusers quotes it",
                  "other models unconfirmed"),
    "fa-cfg": Recipe(({"fa-cfg": {"high": 35.0, "low": 7.5}},), "arXiv 2410.18410, its code for SDXL",
                     "for the later stages of a run in rising resolutions"),
    "s-cfg": Recipe((_plain("s-cfg"),), "arXiv 2404.05384 (identifier unconfirmed)",
                    "needs text tokens in the attention: SD3, Flux"),
    "ag": Recipe((_plain("ag"), CFG), "arXiv 2312.12487",
                 "the threshold is the model's, on x0; the paper's 0.991 is on the epsilon of a latent diffusion model"),
    "linear-ag": Recipe((_plain("linear-ag"), CFG), "arXiv 2312.12487", "untested coefficients: fit your own, `LinearAG`"),
    "cfg-cache": Recipe((_plain("cfg-cache"), CFG), "arXiv 2410.19355 (FasterCache), values of diffusers"),
    "rcfg": Recipe(({"rcfg": {"residual": "self"}}, {"cfg": {"scale": 1.2}}), "arXiv 2312.12491, values of its code",
                   "no unconditional evaluation; residual onetime makes one, and is closer to CFG"),
})
"""Recipes by name. Raises `BadValue`, listing the names, for one it does not have."""
