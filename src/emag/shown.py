"""Texts of users as they are shown: what a terminal, a page or a picture would obey is written out instead."""

import unicodedata

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Marks that turn the direction of what follows, and the byte-order mark: seen by nobody, and they hide what is there."""
OBEYED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, lone surrogates, and separators of lines and paragraphs."""


def visible(text: str, lines: bool = False) -> str:
    r"""`text` with an escape such as \x1b or \u202e for each character that is an order and not a sign.

    lines: leave line feeds as they are.
    """
    return "".join(one if _sign(one) or (lines and one == "\n") else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str, most: int) -> str:
    """The same in at most `most` characters, an ellipsis where some are left out."""
    text = visible(text)
    return text if len(text) <= most else text[:most - 1].rstrip() + "…"


def _sign(one: str) -> bool:
    return one not in BIDI and unicodedata.category(one) not in OBEYED
