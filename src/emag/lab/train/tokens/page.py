"""What guidance does to each embedded model of a known rule: python -m emag.lab.train.tokens.page docs/results/tokens.md"""

from pathlib import Path
from typing import Annotated

import typer

from ....files import check_file, whole
from ..digits import table
from ..ending import told_errors
from .kinds import KINDS, PLACES, embedded
from .measure import COUNT, ENOUGH, rows

HEAD = f"""# Tokens whose rule is known

Made by `make results-tokens`, in a minute of one core. Each model is a small one of a class of transformers or diffusers,
trained here by `python -m emag.lab.train.tokens FOLDER --kind KIND` and shipped with the package. What is right is exact:

- **counting texts**: a prompt names a step, and each of 16 digits is that before it and the step, modulo 10; in training
  one digit in three is any digit, so that 70 % keep the rule
- **two codebooks**: the first counts so, the second adds the step to the first at the same time
- **striped images**: 8 x 8 tokens of four colours, whose stripes run the way the prompt names; one token in four is any
  colour, so that 81 % keep the rule. A token is right where it is that of the stripes, begun with the colour that most of
  the image keep

One training prompt in five names nothing, and guidance goes away from that; Amused's images of no prompt are of any
tokens, a thing to go away from. {COUNT} texts, of all prompts alike, are sampled at temperature 1 at each strength. A text
keeps the rule where {ENOUGH:.0%} of its tokens do; the interval is Wilson's, 95 %. Diversity is the share of tokens in which
two texts of one prompt differ, with the 95 % interval of its mean. Null passes are those of one call for all texts together,
as many as `run.plan` says.
"""
MASKS = """## The rule as a mask

The causal model once more, digit by digit, with and without its rule as a mask behind guidance: 450 texts, 95 % intervals
over texts; the entropy of first digits is 3.32 bits where all are alike.

"""


def page(names: list[str]) -> str:
    """The page of the kinds `names`."""
    parts = [HEAD]
    for name in names:
        lines = "\n".join(rows(KINDS[name], embedded(name)))
        parts.append(f"## {KINDS[name].title}\n\n`--kind {name}`\n\n{lines}\n")
    return "\n".join([*parts, MASKS + table(embedded("causal")) + "\n"])


def main(out: Annotated[Path, typer.Argument(help="File for the page.")]) -> None:
    """Measure the embedded models whose rule is known, and write the page of it."""
    with told_errors():
        check_file(out)
    text = page(list(PLACES))
    with whole(out) as draft:
        draft.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
