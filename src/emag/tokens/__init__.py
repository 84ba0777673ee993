"""Guidance of token models: language, speech and other sequences that transformers' `generate` makes."""

from ..maths.projections import on_simplex, on_sphere
from ..methods.tokens import CAIF, MTI, TOKEN_METHODS, CognacGen, GeDi, LMGuidance, SoftCFG
from .class_model import ClassModel
from .context import Null, zero
from .filling import GuidedFilling, filled
from .host import GuidedTokens, Processor, guide, processor
from .language_model import LanguageModel
from .masked import GuidedMasks, masked
from .phrases import Phrases
from .predictions import Predictions, predictions
from .stats import TokenStats
from .suffix import Suffix, suffix

__all__ = ["CAIF", "MTI", "TOKEN_METHODS", "ClassModel", "CognacGen", "GeDi", "GuidedFilling", "GuidedMasks",
           "GuidedTokens", "LMGuidance", "LanguageModel", "Null", "Phrases", "Predictions", "Processor", "SoftCFG",
           "Suffix", "TokenStats", "filled", "guide", "masked", "on_simplex", "on_sphere", "predictions", "processor",
           "suffix", "zero"]
