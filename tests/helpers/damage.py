"""Damage to files, as disks, cables and hands do it: what a reader must answer with a value or with one line."""

import random

from emag.errors import EmagError

SIGNS = b'"\n\t,:-\\[]{}*&!\xff\0a9e.'


def harmed(data, seed):
    """`data` with bytes changed, cut out and put in at a few places, one time in two cut off; the same for the same seed."""
    rng, found = random.Random(f"{seed} {len(data)}"), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found))
        found[at:at + rng.randint(0, 3)] = bytes(rng.choice(SIGNS) for _ in range(rng.randint(0, 3)))
    if rng.random() < 0.3:
        start, length = rng.randrange(len(found)), rng.randint(1, 64)
        found[start:start + length] = rng.randbytes(length)
    return bytes(found[:rng.randrange(1, len(found))] if rng.random() < 0.5 else found)


def answer(read, *given):
    """What a reader gives, or the one line of its error; any other exception fails."""
    try:
        return read(*given)
    except EmagError as error:
        text = str(error)
        return f"{len(text.splitlines())} line" if 0 < len(text) < 1200 else f"no short error: {text}"
