"""Every default in one table, per model where a source has one. Docs, command line and messages read it from here."""

from .entry import Entry
from .resolve import blocks_at, entry, models_of, resolve, resolved
from .table import TABLE

__all__ = ["TABLE", "Entry", "blocks_at", "entry", "models_of", "resolve", "resolved"]
