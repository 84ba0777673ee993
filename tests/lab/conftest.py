"""The command line as a fixture."""

from shell import run  # noqa: F401
