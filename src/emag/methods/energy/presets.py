"""Published methods as settings of `Energy`: what each moves, by which gradients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EnergyPreset:
    """settings: fields of `Energy`. source: where its numbers come from."""

    settings: Mapping[str, Any]
    paper: str
    equation: str
    source: str = field(default="the strength is a place to begin, untested")


def _tfg(rho: float, mu: float, smooth: float, schedule: str = "increase") -> EnergyPreset:
    settings = {"strength": rho, "mean": mu, "where": "x_t", "through_network": True, "inner": 4, "smooth": smooth,
                "schedule": schedule}
    return EnergyPreset(settings, "arXiv 2409.15761",
                  "x' + rho_t grad_x F(x0(x)) / sqrt(a_t) + alpha' (moves of x0 by mu_t grad F)",
                  "the authors' code, whose runs add noise: say eta=1 for it")


NETWORK = {"through_network": True}
_ON_MANIFOLD: dict[str, Any] = {**NETWORK, "mean": 1.0, "smooth": 0.01, "draws": 4, "clip": 100.0}
_THEIRS = ("the authors' code, whose strengths also rise with the share of the clean sample; {}")

PRESETS: dict[str, EnergyPreset] = {
    "dps": EnergyPreset({"where": "next", **NETWORK, "normalise": "root"}, "arXiv 2209.14687",
                  "x' - zeta / |r| grad_x |r|^2, the score being -|r|^2"),
    "lgd": EnergyPreset({"where": "next", **NETWORK, "smooth": 1.0, "draws": 4}, "LGD, ICML 2023",
                  "x' + rho grad_x log mean_j exp(f(x0 + sigma n_j))", "4 draws as in the code of TFG, strength untested"),
    "freedom": EnergyPreset({"where": "next", **NETWORK, "recur": 2}, "arXiv 2303.09833",
                      "x' + rho grad_x f(x0), each step repeated",
                      "strength and number of repetitions untested"),
    "mpgd": EnergyPreset({"where": "next"}, "arXiv 2311.16424", "x' + alpha' mu grad f(x0)"),
    "ugd": EnergyPreset({"where": "x0", **NETWORK, "mean": 1.0}, "arXiv 2302.07121",
                  "epsilon - rho sigma grad_x f(x0) - alpha / sigma (moves of x0 by mu grad f)"),
    "dreamguider": EnergyPreset({"where": "next", "augment": 4}, "arXiv 2406.02549",
                          "x' + (alpha' c - sigma' d sigma / alpha) grad f(x0), over augmented views",
                          "views untested; the authors' formula of the step is not public, so it is the strength"),
    "classifier": EnergyPreset({"where": "x0", **NETWORK}, "arXiv 2105.05233",
                         "epsilon - s sigma grad_x log p(y | x0(x)), by a classifier of clean images"),
    "on-manifold": EnergyPreset({"where": "x_t", **_ON_MANIFOLD}, "arXiv 2607.00647",
                                "x' + (alpha' / alpha) rho grad_x f(x0(x)) + alpha' mu grad f(x0)",
                                _THEIRS.format("the total grows with the number of steps")),
    "on-manifold-velocity": EnergyPreset({"where": "velocity", **_ON_MANIFOLD}, "arXiv 2607.00647",
                                         "v - (sigma / alpha) rho grad_x f(x0(x)) - mu grad f(x0), v noise minus data",
                                         _THEIRS.format("theirs for networks that predict x0 is lam=1")),
    "glide": EnergyPreset({"where": "x0", **NETWORK, "strength": 3.0}, "arXiv 2112.10741",
                          "epsilon - s sigma grad_x (logit scale cos(f(x0(x)), g(text))), by CLIP: the score clip-logit",
                          "the authors' notebook, whose CLIP is one of noisy images (of=noisy); of clean ones untested"),
    "elucd": EnergyPreset({"where": "next", "schedule": "elucd"}, "arXiv 2310.11311",
                          "x' + (V_t + 0.3 max V sin(pi t / T)) grad L(x0), L = t1 f_y - log sum_j exp(t2 f_j)",
                          "the authors' code for DDPM of 250 steps, with noise in each step, which ours has not; "
                          "temperatures 1 and 0.5 and softness 3 are the score's"),
    "elucd-edm": EnergyPreset({"where": "x_t", "of": "noisy", "again": True, "normalise": "relative",
                               "schedule": "elucd-edm", "strength": 0.004}, "arXiv 2310.11311",
                              "x_t + G rms(x_t) ((N - i) / N + 0.3 sin(pi i / (N - 1))) grad L(x_t / max(1, rms)) / rms",
                              "the authors' code for EDM, before a Heun step; temperatures 1 and 0 and softness 5 are the "
                              "score's"),
    "greed": EnergyPreset({"where": "next", **NETWORK, "steps": 4}, "arXiv 2502.08006",
                          "x' + rho grad_x f(the end of k steps from x)",
                          "strength and k untested: 1 is posterior guidance, the steps that are left end-to-end"),
    "frame": EnergyPreset({"where": "x_t", **NETWORK, "again": True, "normalise": "norm", "strength": 0.01},
                          "arXiv 2506.07177",
                    "x_t + lr G / |G|, then the step from there: the early stage", "the authors' code"),
    "frame-travel": EnergyPreset({"where": "next", **NETWORK, "recur": 2, "normalise": "norm", "strength": 0.01},
                                 "arXiv 2506.07177", "x' + lr G / |G|, noise back to x_t, and again: the middle stage",
                                 "the authors' code; how often is theirs to set by step, 2 is a place to begin"),
    "tfg-cifar10": _tfg(1.0, 0.25, 0.001), "tfg-imagenet": _tfg(2.0, 0.5, 0.1), "tfg-birds": _tfg(0.5, 0.5, 0.01),
    "tfg-faces": _tfg(0.5, 8.0, 1.0), "tfg-deblur": _tfg(1.0, 8.0, 0.01), "tfg-super-resolution": _tfg(4.0, 2.0, 0.01),
    "tfg-style": _tfg(0.25, 2.0, 0.1), "tfg-audio-declip": _tfg(1.0, 1.0, 0.1), "tfg-audio-inpaint": _tfg(0.25, 2.0, 0.1),
    "tfg-molecule": _tfg(0.001, 0.002, 0.1, "decrease"),
}
"""By name. TFG's are by task."""
