"""The `emag` command."""

from .failures import main

__all__ = ["main"]
