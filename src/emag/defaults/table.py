"""The table: one module per group of models."""

from . import common, joint, separate, video
from .entry import Defaults

TABLE: Defaults = {model: rules for module in (joint, separate, video, common) for model, rules in module.ENTRIES.items()}
