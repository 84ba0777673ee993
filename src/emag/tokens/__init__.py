"""Guidance of token models: language, speech and other sequences that transformers' `generate` makes."""

from ..methods.tokens import CAIF, MTI, TOKEN_METHODS, GeDi, SoftCFG
from .class_model import ClassModel
from .context import Null, zero
from .host import GuidedTokens, Processor, guide, processor
from .stats import TokenStats

__all__ = ["CAIF", "MTI", "TOKEN_METHODS", "ClassModel", "GeDi", "GuidedTokens", "Null", "Processor", "SoftCFG",
           "TokenStats", "guide", "processor", "zero"]
