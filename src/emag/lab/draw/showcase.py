"""A setting for every method at which it shows something: what `emag compare --all` draws and `emag doctor` tries."""

from collections.abc import Sequence
from typing import Any

from ...core import COND, Rule
from ...methods.combining.compositional import compositional
from ...methods.combining.contrastive import ContrastiveCFG
from ...methods.combining.cs_apg import CSAPG
from ...methods.combining.perp_neg import PerpNeg
from ...methods.combining.sld import SLD
from ...methods.condition.modulation import ModulationGuidance
from ...methods.weak.dng import DNG
from ...methods.weak.negative import Negative
from ...samplers import SOLVERS
from ..pages.catalogue import catalogue
from .columns import Column

OTHER = "prompt:a photo of a deer"

EXAMPLES: dict[str, str | tuple[Rule, ...] | None] = {
    "fdg": "fdg=4+2.5",
    "fa-cfg": "fa-cfg=4,low=2.5",
    "hiwave": "hiwave=4",
    "rcfg": "scale=1.2 rcfg=onetime",
    "fkc": "cfg=1.5 fkc,scale=1.5 reverse-sde",
    "fkc-anneal": "fkc-anneal reverse-sde",
    "fkc-product": "fkc-product,branches=cond+prompt:deer reverse-sde",
    "compose": (compositional({COND: 2.0, OTHER: 1.5}),),
    "cs-apg": (CSAPG(2.5, 1.5, context=OTHER),),
    "tsg": "tsg=1.5",
    "sg": "sg=3,shift=0.03",
    "swg": "swg=2,share=0.7,unit=1",
    "soft-pag": "soft-pag=4,heads=2.0+2.1,strength=1",
    "fsg": "cfg fsg,at=0+2,interval=2+2,repeats=1+1",
    "fds": "cfg fds=0.3",
    "characteristic": "characteristic=3,iterations=12,tolerance=0.01",
    "negative": (Negative(2.0, OTHER),),
    "contrastive": (ContrastiveCFG(negative=OTHER, tau=0.01),),
    "dng": (DNG(negative=OTHER, prior=0.1),),
    "perp-neg": (PerpNeg(negative=OTHER),),
    "sld": (SLD(negative=OTHER, warm_up=0),),
    "modulation": (ModulationGuidance(OTHER),),
    "nag": "nag cfg=1",
    "o-nag": "o-nag cfg=1",
    "nasa": "nasa cfg=1",
    "vsf": "vsf cfg=1",
    "energy": "cfg energy=colour:0.9:0.1:0.1,strength=0.05,normalise=rms",
    "gfcg": "gfcg=ship,rivals=deer,power=0",
    "scg": "cfg scg=colour:0.9:0.1:0.1,n=4,interval=0+1",
    "constant": None,  # the same as a plain number
    "cfg": None,  # the pipeline's own
}
"""For methods that need more than their defaults; None leaves a method out."""

SKIPPED = {
    "cdg": "needs a mask of the prompt's own tokens, from Python: emag.content_tokens",
    "recfg": "needs a file of measured ratios, from Python: emag.methods.null.recfg.Means",
    "annealing": "needs a file of trained weights",
    "internal-guidance": "needs a network trained with an intermediate head; none that is known has one",
    "feedback": "needs a scoring function, from Python",
    "ctrl-z": "needs a reward function, from Python",
    "fkc-reward": "needs a reward function, from Python",
    "neg-to-me": "needs a file of the reference image's latents",
    "spg": "needs a file of the style image's latents",
    "style-moments": "needs a file of the style image's latents",
    "w2sd": "needs a second model, from Python",
    **dict.fromkeys(("autoguidance", "sine", "domain", "priors", "personalization", "rlg", "unguide", "hm-cfg", "core2"),
                    "needs a second network: name it, model=load:FOLDER, or model=lora:0.5 where there is a LoRA"),
}
"""Methods that need what no default can name, and what that is."""

FORMS = {"condition": "{}", "attention": "{}", "weak": "{}", "null": "{}", "combining": "{}", "after": "cfg {}",
         "energy": "cfg {}", "schedule": "cfg={}", "corrector": "cfg {}", "solver": "cfg {}"}


def columns(kinds: Sequence[str] = tuple(FORMS)) -> list[Column]:
    """One column per method of these kinds."""
    found = [_column(method) for method in catalogue() if method["kind"] in kinds and method["name"] not in SKIPPED]
    return [column for column in found if column is not None]


def _column(method: dict[str, Any]) -> Column | None:
    name = method["name"]
    guides = name in SOLVERS and SOLVERS[name].guides  # by a scale of its own
    example = EXAMPLES.get(name, name if guides else FORMS[method["kind"]].format(name))
    if isinstance(example, tuple):
        return Column(name, example)
    return None if example is None else Column.parse(f"{name}: {example}")
