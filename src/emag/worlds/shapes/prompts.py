"""Prompts: a request as words, and back. "a small red circle left of two blue rings" is refused, "two red rings" is not.

    prompt  = things [relation thing] ["on" background]
    things  = number [size] colour shape            number: a, an, one, two, three
    thing   = "a" [size] colour shape               relation: and, left of, above, inside, larger than
"""

import re

from ...errors import BadValue
from .scene import BACKGROUNDS, COLOURS, HOLDERS, RADII, RELATIONS, SHAPES, Kind, Request

NUMBERS = ("a", "two", "three")
PAD = "<pad>"
VOCABULARY = (PAD, *NUMBERS, *RADII, *COLOURS, *SHAPES, "and",
              *dict.fromkeys(word for relation in RELATIONS for word in relation.split()), "on", *BACKGROUNDS)
MEMBERS = (*NUMBERS, *RADII, *COLOURS, *SHAPES)
"""Words that noun phrases are made of."""

LENGTH = 12
"""Words of the longest prompt."""

SYNONYMS = {"an": "a", "one": "a", "gray": "grey", "big": "large", "little": "small", "bigger": "larger", "violet": "purple",
            "disc": "circle", "disk": "circle", "dot": "circle", "plus": "cross", "crosses": "cross"}


def say(request: Request) -> str:
    """The prompt of a request: "two red rings on black"."""
    kinds = request.kinds
    if len(set(kinds)) == 1:
        words = [NUMBERS[len(kinds) - 1], _name(kinds[0], many=len(kinds) > 1)]
    else:
        words = ["a", _name(kinds[0]), request.relation or "and", "a", _name(kinds[1])]
    return " ".join(words + (["on", request.background] if request.background else []))


def _name(kind: Kind, many: bool = False) -> str:
    return " ".join(word for word in (kind.size, kind.colour, plural(kind.shape) if many else kind.shape) if word)


def plural(shape: str) -> str:
    """"rings", "crosses"."""
    return shape + ("es" if shape.endswith("s") else "s")


def tokens(prompt: str) -> list[str]:
    """Words of the vocabulary that `prompt` consists of. Raises `BadValue` for a word that is not in it."""
    found = []
    for word in re.findall(r"[^\W_]+", prompt.lower()):
        word = SYNONYMS.get(word, word)
        word = word if word in VOCABULARY else word.removesuffix("s")
        if word not in VOCABULARY:
            raise BadValue(f"prompt {prompt!r}: unknown word {word!r}; known are {', '.join(VOCABULARY[1:])}")
        found.append(word)
    return found


def ids(prompt: str) -> list[int]:
    """Word numbers of a prompt, `LENGTH` of them; the empty prompt is all padding."""
    numbers = [VOCABULARY.index(word) for word in tokens(prompt)]
    return numbers + [0] * (LENGTH - len(numbers))


def read(prompt: str) -> Request:
    """The request of a prompt. Raises `BadValue` where it is none of the grammar above."""
    words = tokens(prompt)
    rest, background = _split(words, "on")
    if background is not None and (len(background) != 1 or background[0] not in BACKGROUNDS):
        raise _refusal(prompt, f"after 'on' comes one of {', '.join(BACKGROUNDS)}")
    relation, parts = _relation(rest)
    read_parts = [_things(part, prompt) for part in parts]
    (number, first), *others = read_parts
    if others and (number > 1 or others[0][0] > 1):
        raise _refusal(prompt, "a relation is between one object and one other")
    _check(prompt, relation, first, [kind for _, kind in others])
    kinds = (first,) * number if not others else (first, others[0][1])
    return Request(kinds, None if relation == "and" else relation, background[0] if background else None)


def _split(words: list[str], at: str) -> tuple[list[str], list[str] | None]:
    place = words.index(at) if at in words else None
    return (words, None) if place is None else (words[:place], words[place + 1:])


def _relation(words: list[str]) -> tuple[str | None, list[list[str]]]:
    for joint in (*RELATIONS, "and"):
        parts = joint.split()
        for i in range(len(words)):
            if words[i:i + len(parts)] == parts:
                return joint, [words[:i], words[i + len(parts):]]
    return None, [words]


def _things(words: list[str], prompt: str) -> tuple[int, Kind]:
    number, rest = (NUMBERS.index(words[0]) + 1, words[1:]) if words and words[0] in NUMBERS else (1, words)
    size, rest = (rest[0], rest[1:]) if rest and rest[0] in RADII else (None, rest)
    if len(rest) != 2 or rest[0] not in COLOURS or rest[1] not in SHAPES:
        raise _refusal(prompt, f"{' '.join(words) or 'nothing'!r} is not a number, a size (or none), a colour and a shape")
    return number, Kind(rest[0], rest[1], size)


def _check(prompt: str, relation: str | None, first: Kind, others: list[Kind]) -> None:
    """Refuse what the world does not draw."""
    if not others:
        return
    second = others[0]
    if (first.colour, first.shape) == (second.colour, second.shape):
        raise _refusal(prompt, "the two objects must differ in colour or shape; say 'two red rings'")
    if relation == "inside" and (second.shape not in HOLDERS or first.colour == second.colour):
        raise _refusal(prompt, f"inside needs another colour around it, and one of {', '.join(HOLDERS)}")
    if relation in ("inside", "larger than") and (first.size or second.size):
        raise _refusal(prompt, f"{relation!r} takes no size word")


def _refusal(prompt: str, why: str) -> BadValue:
    return BadValue(f"prompt {prompt!r} is not of this world: {why}; e.g. 'a small red circle left of a blue ring on grey'")
