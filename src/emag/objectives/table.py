"""The objectives in one table: paper, equation, and how much guidance is baked in where training has come to its end."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import further, guided_targets, implicit, likelihood, preferences


@dataclass(frozen=True)
class Objective:
    """One objective.

    function: a loss of tensors. baked: from its knobs to the scale w of u + w (c - u) at its optimum, where a formula tells
    it; said: that formula in words, or what else is baked in.
    """

    name: str
    paper: str
    equation: str
    function: Callable[..., torch.Tensor]
    said: str
    baked: Callable[..., float] | None = None


def _model_guidance(scale: float, convention: guided_targets.Coefficient = "printed") -> float:
    return 1 / (1 - guided_targets.mg_coefficient(scale, convention))


_ROWS = (
    Objective("agd", "arXiv 2503.07274", "|f(x, c) - sg g(x, c)|^2", guided_targets.distillation_loss,
              "the teacher's own scale w", lambda scale: scale),
    Objective("guidance-loss", "none found; trainers of LoRAs", "|f(x, c) - sg[u + s (v - u)]|^2",
              guided_targets.guidance_loss, "s, times what the data is guided by already",
              lambda scale, before=1.0: scale * before),
    Objective("model-guidance", "arXiv 2502.12154", "|f(x, c) - v - w sg[f'(x, c) - f'(x)]|^2",
              guided_targets.model_guidance_loss, "1 / (1 - w), as printed; 1 / (2 - w), as tabulated", _model_guidance),
    Objective("meanflow-cfg", "arXiv 2508.06098", "v^ = om v + ka u_c + (1 - om - ka) u_0", guided_targets.meanflow_loss,
              "om / (1 - ka)", lambda omega, kappa: omega / (1 - kappa)),
    Objective("gft", "arXiv 2501.15420", "|beta f(x, c, beta) + (1 - beta) sg f(x, 1) - v|^2", implicit.gft_loss, "1 / beta",
              lambda beta: 1 / beta),
    Objective("cca", "arXiv 2410.09347", "-log s(beta r(x, c)) - lambda log s(-beta r(x, c'))", likelihood.cca_loss,
              "1 + 1 / beta; real trainings stop far earlier", lambda beta: 1 + 1 / beta),
    Objective("diversity", "arXiv 2410.06084", "sum_t KL(pi || softmax(u + w (c - u)))", likelihood.guided_kl, "w",
              lambda scale: scale),
    Objective("teefusion", "arXiv 2507.18192", "|f(x, t + c + s (c - c0) / 256) - sg g(x, c)|^2",
              guided_targets.distillation_loss, "1 + s, the scale that fused_embedding is given", lambda scale: 1 + scale),
    Objective("reneg", "arXiv 2412.19637", "-R(x0(e(n) + w (e(c) - e(n))))", further.reneg_loss,
              "none: an embedding for the negative branch, used at w"),
    Objective("noise-refine", "arXiv 2412.03895", "|F_1 o ... o F_T(x_T + g) - x0|^2", further.noise_loss,
              "none: a first noise, from which the plain sampler makes the guided picture"),
    Objective("npo", "Wang et al., ICLR 2025", "-log s(beta / 2 [(e_w - e_w') - (e_l - e_l')])", preferences.npo_loss,
              "none: weights for the null branch"),
    Objective("self-npo", "AAAI 2026", "Huber(x0(x_s), x0 of an unguided sample)", preferences.self_npo_loss,
              "none: weights for the null branch"),
    Objective("nft", "arXiv 2509.16117", "1/beta [r |x0(v+) - x0|^2 / w+ + (1 - r) |x0(v-) - x0|^2 / w-]",
              preferences.nft_loss, "not of CFG: v' + (2 / beta) Delta"),
    Objective("self-perceptual", "arXiv 2401.00110", "|f*(x^_t') - f*(x_t')|^2", further.self_perceptual_loss, "none"),
)
OBJECTIVES: dict[str, Objective] = {row.name: row for row in _ROWS}
