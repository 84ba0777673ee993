"""The table of trials: one per rule, schedule and saver, at settings where it acts. test_properties.py runs it."""

from typing import Any

import torch

import emag
from emag.methods import METHODS
from emag.methods.combining.compose import Compose, Term
from emag.schedules import (
    C2FG,
    MAMBOG,
    VAGS,
    Annealing,
    BetaCFG,
    CFGpp,
    Curve,
    Interval,
    NoisePower,
    PowerLaw,
    Rectified,
    Triangle,
    Waning,
)
from emag.testing import Trial
from emag.testing import trial as one
from heads import written
from styles import style
from tiny import noise, sd3

WINDOW = emag.Window.progress(0, 0.2, 0.9)


C = METHODS
CFG = emag.CFG
_OTHER = sd3(seed=1).transformer
OTHER: dict[str, Any] = {"sees": True, "only": ("sd3",), "more": (
    ("models", dict.fromkeys(("guide", "tuned", "base", "pretrained"), _OTHER)),)}
NULL = {"encoder_hidden_states": noise(900, 1, 5, 12), "pooled_projections": noise(950, 1, 10)}
EMPTIED = (("conditions", {"null": NULL}),
           ("masks", {"content": torch.tensor([[True, True, True, False, False]])}))

ROWS = (
    one(C["phase-negative"](1.5, 1), C["phase-negative"](1.0), sees=True, only=("sd3", "dit", "pixart", "true-cfg")),
    one(emag.CADS(0.3, 0.3, 0.9, 0.7), emag.CADS(0.3, 1.0, 1.0, 0.7), sees=True, only=("sd3", "dit", "pixart", "true-cfg")),
    one(C["nag"](4.0, 2.5, 0.5, 0.0, layers=(1, 2)), C["nag"](1.0, 2.5, 0.5, 0.0, layers=(1, 2)), sees=True,
        only=("sd3", "pixart")),
    one(C["o-nag"](2.0, layers=(1, 2)), C["o-nag"](0.0, layers=(1, 2)), sees=True, only=("sd3", "pixart")),
    one(C["vsf"](2.0, 0.1, layers=(1, 2)), sees=True, only=("sd3", "pixart")),
    one(C["pladis"](2.0, layers=(1, 2)), C["pladis"](0.0, layers=(1, 2)), sees=True, only=("sd3", "pixart", "true-cfg")),
    one(C["gag"](0.8, layers=(1, 2)), sees=True, only=("sd3", "pixart", "true-cfg")),
    one(C["taca"](1.6, 0.5, layers=(1, 2)), C["taca"](1.0, layers=(1, 2)), sees=True, only=("sd3", "true-cfg")),
    one(C["textailor"](1.7, layers=(1, 2)), C["textailor"](1.0, layers=(1, 2)), sees=True, only=("sd3", "true-cfg")),
    Trial("textailor-cond", (C["textailor"](0.5, (1, 3), "cond", 1, 4),), sees=True, only=("sd3", "true-cfg")),
    one(C["spg"](2.0, style(), (1, 2)), C["spg"](1.0, style(), (1, 2)), sees=True, only=("sd3", "dit", "pixart")),
    one(emag.EMAG(1.5, layers=(1, 2), window=WINDOW), emag.EMAG(1.0, layers=(1, 2), window=WINDOW), sees=True),
    one(C["pag"](2.0, (1, 2)), C["pag"](1.0, (1, 2)), sees=True),
    Trial("pag-soft", (C["pag"](2.0, (1, 2), "joint", 0.6, (1,)),), (C["pag"](2.0, (1, 2), strength=0.0),), sees=True),
    one(C["soft-pag"](2.0, ("1.0", "2.1"), "uniform", 0.7), C["soft-pag"](2.0, ("1.0",), strength=0.0), sees=True),
    Trial("soft-pag-argmax", (C["soft-pag"](2.0, ("1.1", "2.0", "2.1"), "argmax", 1.0),), sees=True),
    one(C["seg"](2.0, (1, 2), 1.0), C["seg"](2.0, (1, 2), 0.0), sees=True),
    one(C["erg"]((1, 2), kickoff=0.3), C["erg"]((1, 2), kickoff=1.0), sees=True),
    one(C["erg-push"](2.0, (1, 2), 0.1), C["erg-push"](1.0, (1, 2)), sees=True),
    one(C["asag"](2.0, (1, 2)), C["asag"](1.0, (1, 2)), sees=True),
    one(C["slg"](2.0, (1, 2)), C["slg"](1.0, (1, 2)), sees=True),
    one(C["stg"](2.0, (1, 2)), C["stg"](1.0, (1, 2)), sees=True),
    one(C["s2"](2.0, 0.4), C["s2"](2.0, 0.0), sees=True),
    Trial("s2-per-sample", (C["s2"](2.0, 0.4, (1, 2, 3), per_sample=True),), sees=True),
    one(C["ssg"](2.0, (1, 2)), C["ssg"](1.0, (1, 2)), sees=True),
    Trial("ssg-channels", (C["ssg"](2.0, (1, 2), 0.0, 0.3),), (C["ssg"](2.0, (1, 2), 0.0, 0.0),), sees=True),
    one(C["tpg"](1.2, (1, 2)), C["tpg"](1.0, (1, 2)), sees=True, only=("true-cfg",)),
    one(C["sag"](1.5, (1, 2)), C["sag"](1.0, (1, 2)), sees=True),
    one(C["tsg"](2.0), C["tsg"](1.0), sees=True),
    one(C["sg"](2.0, 0.05), C["sg"](1.0, 0.05), sees=True),
    one(C["swg"](2.0, 0.7, unit=2), C["swg"](1.0, 0.7, unit=2), sees=True, only=("sd3", "dit", "pixart")),
    one(C["negative"](2.0, "prompt:281"), C["negative"](1.0), sees=True, only=("dit",)),
    one(C["autoguidance"](2.0), C["autoguidance"](1.0), **OTHER),
    Trial("sine", (C["sine"](0.7, source="cond"),), (C["sine"](1.0),), **OTHER),
    one(C["icg"](), sees=True, only=("sd3", "pixart", "true-cfg")),
    Trial("icg-label", (C["icg"]("label", redraw=False),), sees=True, only=("dit",)),
    Trial("icg-given", (C["icg"]("given", ("prompt:281", "prompt:7")),), sees=True, only=("dit",)),
    one(C["cdg"](1, "null"), sees=True, only=("sd3", "true-cfg"), more=EMPTIED),
    one(C["domain"](), **OTHER),
    one(C["priors"](), **OTHER),
    one(C["personalization"]("base"), **OTHER),
    one(C["rlg"](1.6, "base"), C["rlg"](1.0), **OTHER),
    one(C["unguide"](-1.0, "base"), C["unguide"](1.0), **OTHER),
    one(C["hm-cfg"](4.0, 2.0), C["hm-cfg"](1.0, 0.0), **OTHER),
    one(CFG(3.0), CFG(1.0)),
    one(emag.APG(4.0, 0.2, 3.0, -0.5), emag.APG(1.0, 0.2, 3.0, -0.5)),
    one(Compose("uncond", (Term(3.0, "cond"), Term(-1.5, "cond", mask="box:0:0:0.5:1*bump:0.3:0.5:0.4"))),
        Compose("uncond", (Term(1.0, "cond"),))),
    Trial("compose-conditions", (Compose("uncond", (Term(1.5, "prompt:281"), Term(3.0, "cond", "prompt:281"))),), sees=True,
        only=("dit",)),
    one(C["cs-apg"](3.0, 2.0, "prompt:281"), C["cs-apg"](1.0, 1.0, "prompt:281"), sees=True, only=("dit",)),
    one(C["tcfg"](), raw=True),
    one(C["ag"](0.5), C["ag"](1.5), guess=True),
    one(C["linear-ag"](until=0.7), C["linear-ag"](until=0.0)),
    one(C["cfg-cache"](every=3, below=0.8, radius=0.4), C["cfg-cache"](every=1), raw=True),
    one(C["rcfg"]("onetime", 0.9), C["rcfg"]("full")),
    Trial("rcfg-self", (C["rcfg"](),)),
    one(C["rescale"](0.7), C["rescale"](0.0), CFG(3.0), raw=True),
    one(C["zero-star"]()),
    one(C["zero-init"](2), C["zero-init"](0), CFG(3.0)),
    one(C["dynamic-threshold"](0.9, 2.0), None, CFG(3.0), only=("sd3", "dit", "true-cfg")),  # pixart's run to 1e3
    one(C["fdg"]((2.0, Interval(1.5, 0.0, 0.7, "progress"), 3.0), (0.5, 1.0, 0.0)), C["fdg"]((1.0, 1.0), (0.5,))),
    one(C["fa-cfg"](5.0, 2.0, 0.4), C["fa-cfg"](1.0, 1.0)),
    one(C["s-cfg"](3.0, layers=(1, 2)), C["s-cfg"](1.0, layers=(1, 2)), sees=True, only=("sd3", "true-cfg")),
    one(C["perp-neg"](3.0, "prompt:281"), C["perp-neg"](1.0, "prompt:281", 0.0), sees=True, only=("dit",)),
    Trial("pag-uniform", (C["pag"](2.0, (1, 2), "uniform"),), sees=True),
    one(C["c-tag"](3.0, 0.7), C["c-tag"](1.0, 0.0)),
    Trial("c-tag-adaptive", (C["c-tag"](3.0, 0.7, True),)),
    one(C["smc-cfg"](3.0, 2.0, 0.1), C["smc-cfg"](1.0, gain=0.0), raw=True),
    Trial("smc-cfg-soft", (C["smc-cfg"](3.0, 0.05, 0.3, 2, True, True),), raw=True),
    one(C["fresca"](2.0, 0.8, 1.6, 0.4), C["fresca"](1.0, 1.0, 1.0)),
    one(C["mahiro"](3.0), C["mahiro"](1.0)),
    one(C["adg"](4.0), C["adg"](1.0)),
    one(C["pmc-cfg"](4.0), C["pmc-cfg"](1.0)),
    one(C["adamag"](4.0), C["adamag"](1.0, 1.0, 0.0)),
    one(C["tonemap"](4.0)),
    one(C["skimmed"](6.0, 2.0), C["skimmed"](1.0)),
    one(C["covhis"](3.0, 3, 2, -0.3, 0.2, 0.8)),
    one(C["cfg-oec"](1.0), C["cfg-oec"](-1.0)),
    one(C["cfg-renorm"](0.9), None, CFG(3.0), raw=True),
    one(C["cfg-norm"](0.9), C["cfg-norm"](0.0), CFG(3.0)),
    one(C["ep-cfg"](0.3, 0.7), None, CFG(3.0)),
    one(C["momentum"](0.5, start=1.0, stop=0.0), C["momentum"](0.0), CFG(3.0)),
    Trial("momentum-normalised", (CFG(3.0), C["momentum"](0.5, normalise=True)),),
    one(C["higs"](1.75), C["higs"](0.0), CFG(3.0)),
    one(C["sg-prev"](2.0, 1.0), C["sg-prev"](0.0), CFG(3.0), raw=True),
    one(C["tag"](1.3), C["tag"](1.0), CFG(3.0)),
    one(C["tsr"](0.7), C["tsr"](1.0), CFG(3.0)),
    one(C["epsilon-scaling"](1.2), C["epsilon-scaling"](1.0), CFG(3.0)),
    Trial("c2fg", (CFG(C2FG(3.0, 0.5)),), (CFG(C2FG(1.0, 0.0)),)),
    Trial("triangle", (CFG(Triangle(3.0)),), (CFG(Triangle(1.0)),)),
    Trial("power-law", (CFG(PowerLaw(3.0)),), (CFG(PowerLaw(1.0)),)),
    Trial("vags", (CFG(VAGS(3.0)),), (CFG(VAGS(1.0, 0.0)),)),
    Trial("interval", (CFG(Interval(3.0, 0.5, 5.0)),), (CFG(Interval(3.0, 0.0, 0.0)),)),
    Trial("curve", (CFG(Curve(2.0, "cosine")),), (CFG(Curve(1.0)),)),
    Trial("rectified", (CFG(Rectified(4.0)),), (CFG(Rectified(1.0)),)),
    Trial("beta-cfg", (CFG(BetaCFG(7.5)),), (CFG(BetaCFG(1.0, 1.0, 1.0, gamma=0.0)),)),
    Trial("mambo-g", (CFG(MAMBOG(5.0, 1.0)),), (CFG(MAMBOG(1.0)),), raw=True),
    Trial("cfg++", (CFG(CFGpp(0.6)),), only=("sd3", "dit", "true-cfg")),
    Trial("annealing", (CFG(Annealing(0.4, written())),), only=("sd3", "dit", "true-cfg")),
    Trial("waning", (CFG(Waning(3.0, skip=0.3)),), (CFG(Waning(1.0, skip=1.0)),)),
    Trial("noise-power", (CFG(NoisePower(3.0, 1.5)),), (CFG(NoisePower(1.0, 0.0)),)),
)
