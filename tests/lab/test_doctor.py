"""The effect matrix: every method on every small network acts exactly where it is said to, and else says why not."""

import json
import re

import pytest
import torch

from emag.errors import BadValue
from emag.lab.doctor.calibrate import BANDS, bands, entry, measure
from emag.lab.doctor.diagnose import diagnose, matrix, tried
from emag.lab.draw.showcase import columns
from emag.lab.pages.catalogue import catalogue
from emag.methods import METHODS
from emag.testing.small import MATRIX
from spy import changes, snapshot
from tiny import CASES, sd3

NO_TEXT = ("dit",)  # no text in any attention
APART = ("pixart", "sigma", "pixart-fused")  # text in a cross-attention of its own
DISTILLED = ("flux", "flux-fused")  # no unconditional prediction
ONE_CALL = ("sd3", "sd3-fused", "dit", *APART)  # both predictions in one call
NEEDS_NULL = ("null", "combining", "after", "energy")  # an energy is tried after CFG


def expected(method, kind, case):
    """What the docs say of a method on a network: "works" or "unsupported"."""
    if method in ("nag", "o-nag", "nasa", "vsf"):
        return "works" if case in ONE_CALL and case not in NO_TEXT else "unsupported"
    if method == "tpg":
        return "unsupported" if case in ONE_CALL else "works"  # blocks do not see where tokens are
    if method == "token-merge":  # the attention of FLUX is told where tokens are
        return "works" if case in ONE_CALL else "unsupported"
    if method == "swg":  # sequences of patches have no windows
        return "works" if case in ONE_CALL else "unsupported"
    if method in ("taca", "textailor", "modulation"):
        return "unsupported" if case in (*NO_TEXT, *APART) else "works"
    if method in ("pladis", "gag"):
        return "unsupported" if case in NO_TEXT else "works"
    if method == "s-cfg" and case in NO_TEXT:
        return "unsupported"
    if method == "icg" and case in NO_TEXT:
        return "unsupported"  # labels cannot be noise
    if method in ("domain", "priors", "personalization", "rlg", "unguide", "hm-cfg", "core2"):
        return "works" if case in ONE_CALL else "unsupported"  # they evaluate the unconditional rows' arguments
    if method == "scg" and case in APART:
        return "unsupported"  # their sampler is of second order
    if method in ("phase-negative", "emag-null") and case in DISTILLED:
        return "unsupported"
    return "unsupported" if kind in NEEDS_NULL and case in DISTILLED else "works"


OFTEN = ("sd3", "flux", "pixart", "dit")
"""One of each kind of text; the others are families of theirs."""


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.slow if case in OFTEN else pytest.mark.long) for case in MATRIX])
def test_the_effect_matrix(case):
    kinds = {method["name"]: method["kind"] for method in catalogue()}
    found = {finding.method: finding for finding in matrix([case])}
    assert set(found) == {column.label for column in tried()} == set(METHODS) - {"cfg", "spg", "cdg", "recfg",
                                                                                     "neg-to-me", "internal-guidance"}
    for method, finding in found.items():
        assert finding.status == expected(method, kinds[method], case), finding
        assert (finding.effect > 0) == (finding.status == "works") and bool(finding.reason) == (finding.status != "works")


def test_a_diagnosis_leaves_the_pipeline_as_it_was():
    pipe = sd3()
    CASES["sd3"].run(pipe)
    before = snapshot(pipe)
    list(diagnose(pipe, lambda p: CASES["sd3"].run(p, seeds=(8,)), "sd3", columns(("weak", "attention"))[:4]))
    assert changes(before, snapshot(pipe), own=False) == []


@pytest.mark.long
def test_the_command(run):
    code, text, error = run("doctor", "emag", "pag", "s-cfg", "-m", "tiny", "-n", 6, "--json")
    assert code == 0, error
    found = {one["method"]: one for one in json.loads(text)}
    assert set(found) == {"emag", "pag", "s-cfg"}
    assert all(one["status"] == "works" and one["effect"] > 0 and not one["reason"] for one in found.values())
    assert {"method", "backbone", "status", "effect", "evaluations", "reason"} == set(found["emag"])
    code, _, error = run("doctor", "magic")
    assert code == 2 and "no method magic" in error


# calibration


def test_bands_of_known_waves():
    x = torch.arange(16.0) / 16
    for frequency, band in ((1, 0), (3, 1), (7, 2)):
        wave = torch.sin(2 * torch.pi * frequency * x).expand(1, 1, 16, 16)
        size, *shares = bands(2 * wave, wave)[0].tolist()
        assert size == pytest.approx(2, abs=1e-5) and shares[band] == pytest.approx(1, abs=1e-5)


def test_calibration_measures_each_block_and_changes_nothing():
    pipe = sd3()
    plain, seen = CASES["sd3"].run(pipe), []
    reach = measure(pipe, METHODS["pag"](2.0), lambda p: seen.append(CASES["sd3"].run(p)))
    assert [one.block for one in reach] == [0, 1, 2, 3] and all(one.effect > 0 for one in reach)
    assert all(sum(one.shares) == pytest.approx(1, abs=1e-6) for one in reach)
    assert all(torch.equal(image, plain) for image in seen)
    with pytest.raises(BadValue, match="no weak branch"):
        measure(pipe, METHODS["cfg"](2.0), lambda p: None)


def test_the_entry_names_the_neighbours_that_move_most():
    from emag.lab.doctor.calibrate import Reach

    reach = [Reach(i, effect, (1.0, 0.0, 0.0)) for i, effect in enumerate((0.1, 0.5, 0.9, 0.8, 0.2))]
    made = entry(METHODS["pag"](2.0), reach, "x", 2)
    assert made["values"] == {"layers": [2, 3], "scale": 2.0} and made["blocks"][2]["low"] == 1.0
    assert set(BANDS) <= set(made["blocks"][0])


@pytest.mark.slow
def test_the_calibrate_command(run, tmp_path):
    code, _, error = run("calibrate", "pag=1.5", "-p", "a ship", "-n", 4, "-o", tmp_path)
    assert code == 0, error
    made = json.loads((tmp_path / "pag-tiny.json").read_text())
    assert len(made["blocks"]) == 8 and len(made["values"]["layers"]) == 3 and "emag calibrate" in made["source"]
    assert (tmp_path / "pag-tiny.png").stat().st_size > 5000
    code, _, error = run("calibrate", "cfg=2", "-n", 4, "-o", tmp_path)
    assert code == 2 and "nothing to calibrate" in error


def test_tables_of_all_methods_fit_in_80_columns_with_whole_names(run, monkeypatch):
    from emag.lab.doctor import coverage
    from emag.lab.doctor.finding import Finding

    networks = ["SD3Transformer2DModel", "HunyuanVideo15Transformer3DModel", "LTX2VideoTransformer3DModel"]
    methods = [column.label for column in coverage.METHODS]
    found = [Finding(method, network, "unsupported" if at == 3 else "works", 0.5, 1.2,
                     "a reason of some length " * 6 * (at == 3))
             for network in networks for at, method in enumerate(methods)]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(coverage, "coverage", lambda methods: iter(found))
    monkeypatch.setattr("emag.lab.doctor.diagnose.matrix", lambda: iter(found))
    for words in (("doctor", "--matrix"), ("doctor",)):
        code, text, _ = run(*words)
        assert code == 0 and max(map(len, text.splitlines())) <= 80
        assert all(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in (*networks, *methods))
