"""Why no entry can be read."""


class Unreadable(Exception):
    """A class whose entry cannot be read from its own code, and why: the text goes into a table."""
