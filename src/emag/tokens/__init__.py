"""Guidance of token models: language, speech and other sequences that transformers' `generate` makes."""

from ..methods.tokens import CAIF, MTI, TOKEN_METHODS, GeDi, SoftCFG
from .class_model import ClassModel
from .context import Null, zero
from .host import GuidedTokens, Processor, guide, processor
from .masked import GuidedMasks, masked
from .stats import TokenStats

__all__ = ["CAIF", "MTI", "TOKEN_METHODS", "ClassModel", "GeDi", "GuidedMasks", "GuidedTokens", "Null", "Processor",
           "SoftCFG", "TokenStats", "guide", "masked", "processor", "zero"]
