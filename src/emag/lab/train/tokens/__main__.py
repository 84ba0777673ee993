"""Train a small model of a library's own class on texts whose rule is known, and print what guidance does to it.

    python -m emag.lab.train.tokens out/codec --kind codec
"""

from pathlib import Path
from typing import Annotated

import typer

from ....errors import BadValue
from ....files import check_folder
from ....near import choices
from ..digits import tokenizer
from ..ending import told_errors
from .host import trained
from .kinds import KINDS
from .measure import rows

WRITTEN = ("causal", "encoder-decoder")
"""Kinds that `emag text` writes with: they need their words."""


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
    kind: Annotated[str, typer.Option(help=f"What it is: {', '.join(KINDS)}.")] = "causal",
    updates: Annotated[int | None, typer.Option(min=1, help="Updates; default: what the kind needs.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train a model of texts or images of tokens whose rule is known, write it, and print what guidance does to it."""
    with told_errors():
        if kind not in KINDS:
            raise BadValue(f"there is no kind {kind!r}: {choices(kind, KINDS)}")
        check_folder(out)
    model = trained(KINDS[kind], updates, seed)
    model.save_pretrained(out)
    if kind in WRITTEN:
        tokenizer().save_pretrained(out)
    print("\n".join(rows(KINDS[kind], model)))


if __name__ == "__main__":
    typer.run(main)
