"""The table: one module per group of models."""

from ..default import Defaults
from . import common, joint, ragged, separate, unet, video

TABLE: Defaults = {model: rules for module in (joint, ragged, separate, unet, video, common)
                   for model, rules in module.ENTRIES.items()}
