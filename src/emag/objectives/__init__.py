"""Guidance in training: objectives whose optimum is a guided network, and residuals of score distillation.

Plain functions on tensors, for trainers of your own: no network, no optimizer, no loop. `OBJECTIVES` and `RESIDUALS` are
the tables. A target never lets a gradient through, and is in at least fp32; ask the teacher in eval mode.
"""

from .further import (
    distilled_base_advice,
    fused_embedding,
    noise_loss,
    reneg_loss,
    self_perceptual_loss,
)
from .generators import sid_branches, sid_loss
from .guided_targets import (
    distillation_loss,
    guidance_loss,
    guided_velocity,
    meanflow_loss,
    model_guidance_loss,
)
from .hooks import GuidedObjective, TrainingBatch, TrainingLoss, as_teacher
from .implicit import gft_implied, gft_loss, gft_told
from .likelihood import cca_loss, diversity_reward, guided_kl
from .memory import guided_once, is_off, memory_of
from .preferences import (
    averaged_into,
    dpo_loss,
    nft_decay,
    nft_loss,
    nft_reward,
    npo_loss,
    npo_weights,
    raised_noise,
    self_npo_loss,
)
from .residuals import (
    RESIDUALS,
    WEIGHTS,
    ScoreResidual,
    as_loss,
    guided_residual,
    score_residual,
    variational_loss,
)
from .table import OBJECTIVES, Objective

__all__ = [
    "OBJECTIVES",
    "RESIDUALS",
    "WEIGHTS",
    "GuidedObjective",
    "Objective",
    "ScoreResidual",
    "TrainingBatch",
    "TrainingLoss",
    "as_loss",
    "as_teacher",
    "averaged_into",
    "cca_loss",
    "distillation_loss",
    "distilled_base_advice",
    "diversity_reward",
    "dpo_loss",
    "fused_embedding",
    "gft_implied",
    "gft_loss",
    "gft_told",
    "guidance_loss",
    "guided_kl",
    "guided_once",
    "guided_residual",
    "guided_velocity",
    "is_off",
    "meanflow_loss",
    "memory_of",
    "model_guidance_loss",
    "nft_decay",
    "nft_loss",
    "nft_reward",
    "noise_loss",
    "npo_loss",
    "npo_weights",
    "raised_noise",
    "reneg_loss",
    "score_residual",
    "self_npo_loss",
    "self_perceptual_loss",
    "sid_branches",
    "sid_loss",
    "variational_loss",
]
