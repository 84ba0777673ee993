"""Errors with one short message each: what was wrong, what was expected, how to mend it."""


class EmagError(Exception):
    """Base of every error raised on purpose by this package."""


class BadValue(EmagError, ValueError):
    """A parameter, recipe, prompt or file that cannot be used."""


class Unsupported(EmagError):
    """A pipeline, network or combination that this package does not handle."""


class NoEffect(EmagError):
    """A guidance was asked for and nothing in the network changed."""


class NotFinite(EmagError):
    """A prediction of a run has infinite values or NaNs."""


class Busy(EmagError):
    """The network already serves a guided run."""
