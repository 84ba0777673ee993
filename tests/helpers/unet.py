"""U-Nets, and what their tests share."""

import pytest

import emag
from emag.methods import METHODS as C

BOTH = pytest.mark.parametrize("name", ["sd", "sdxl"])
WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"window": WINDOW, **more})


def run_under(case, pipe, *rules, seeds=(8, 9), **more):
    with emag.guide(pipe, *rules) as run:
        return case.run(pipe, seeds, **more), run


RULES = {"pag": C["pag"](2.0), "seg": C["seg"](2.0), "slg": C["slg"](2.0), "stg": C["stg"](2.0, form="attention"),
         "tpg": C["tpg"](2.0), "asag": C["asag"](2.0), "erg": C["erg"](), "nag": C["nag"](), "vsf": C["vsf"](),
         "pladis": C["pladis"](), "sag": C["sag"](), "s2": C["s2"](2.0, 0.4), "tsg": C["tsg"](2.0), "icg": C["icg"](),
         "cads": emag.CADS(0.3, 0.3, 0.9, 0.7), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5),
         "fdg": C["fdg"]((3.0, 2.0)), "ag": C["ag"](-2.0), "tcfg": C["tcfg"]()}
