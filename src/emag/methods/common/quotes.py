"""Texts in the short form of rules: what stands between double quotation marks is taken as it is, commas and blanks too.

A mark opens where a value begins, and closes at the next one; two of them inside are one: `energy="clip:a ""red"" fox, at
night",strength=2`. A mark within a word is a mark. The command line, its files, the page and the nodes share this.
"""

import re

from ...errors import BadValue

QUOTED = re.compile(r'(?:^|(?<=[\s=,+:]))"(?:[^"]|"")*("|$)')
"""A text between marks; one that is not closed runs to the end."""
RULE = re.compile(r"(?:^|(?<=\s))'[^']*'(?=\s|$)")
"""A rule as a whole between single marks, as a shell takes it."""
BETWEEN = re.compile(r"(?<![\s,=])\s+(?![,=\s])")
"""What stands between two rules of a line: blanks that are not beside a comma or an equals sign."""


def parts(text: str, separator: str) -> list[str]:
    """`text` cut at each `separator` that is not within a quoted text."""
    return _cut(text, re.compile(re.escape(separator)), QUOTED)


def words(text: str) -> list[str]:
    """The rules of a line, each as `parts` reads it; one with blanks in it may stand between marks as a whole."""
    found = _cut(text.strip(), BETWEEN, re.compile(f"{QUOTED.pattern}|{RULE.pattern}"))
    return [_bare(word) for word in found if word]


def unquoted(text: str) -> str:
    """`text` without the marks around what is quoted in it."""
    return QUOTED.sub(lambda found: found[0][1:-1].replace('""', '"'), text)


def quoted(text: str) -> str:
    """`text` as `unquoted` reads it back: between marks where something in it would be read as more than a sign."""
    return '"' + text.replace('"', '""') + '"' if re.search(r'[\s",+\']', text) or not text else text


def _cut(text: str, at: re.Pattern[str], whole: re.Pattern[str]) -> list[str]:
    kept = [found.span() for found in whole.finditer(text) if _closed(found, text)]
    cuts = [found.span() for found in at.finditer(text) if not any(a <= found.start() < b for a, b in kept)]
    return [text[a:b] for a, b in zip([0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)])]


def _closed(found: re.Match[str], text: str) -> bool:
    """True. Raises `BadValue` where a quoted text has no end."""
    if found[1] == "":
        raise _open(text)
    return True


def _open(text: str) -> BadValue:
    return BadValue(f"a quotation mark is not closed in {text!r}: a text with a comma in it stands between two, e.g. "
                    'energy="clip:a red fox, at night",strength=2')


def _bare(word: str) -> str:
    """A rule without the marks around it as a whole."""
    if word.startswith("'"):
        if len(word) < 2 or not word.endswith("'"):
            raise _open(word)
        return word[1:-1]
    return unquoted(word) if word.startswith('"') else word
