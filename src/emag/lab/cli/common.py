"""What the commands share: options, and how they are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from ...files import parsed
from ...records.seeds import read_seeds as seeds_of
from .app import app, command
from .bars import progress
from .loading import ANY, Device, Dtype, Loading, Model, NamedModel, open_pipeline
from .outputs import check_out, file_in
from .screen import err, out, show_json, table

__all__ = ["ANY", "Device", "Dtype", "Loading", "Model", "NamedModel", "app", "check_out", "column_of", "command", "err",
           "file_in", "lines", "open_pipeline", "out", "progress", "rules_of", "seeds_of", "settings_of", "show_files",
           "show_json", "table"]


def show_files(written: Iterable[Path], as_json: bool) -> None:
    """Print what was written: a path a line, or JSON."""
    if as_json:
        show_json({"files": [str(path) for path in written]})
        return
    for path in written:
        out.print(path)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def method_names(incomplete: str) -> list[str]:
    """Completions of a rule: the names of methods."""
    from ...methods import METHODS

    return _starting(incomplete, METHODS)


def token_method_names(incomplete: str) -> list[str]:
    """Completions of a rule over tokens."""
    from ...methods.tokens import TOKEN_METHODS

    return _starting(incomplete, TOKEN_METHODS)


def recipe_names(incomplete: str) -> list[str]:
    """Completions of a recipe."""
    from ...records.named import recipes

    return _starting(incomplete, recipes)


Prompts = Annotated[list[str] | None, typer.Argument(help="Prompts, or class labels (names or numbers). As --prompt.")]
Prompt = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt, or a class label. Repeat for more.")]
PromptFile = Annotated[Path | None, typer.Option("--prompts", help="Text file with one prompt per line; - is standard "
                                                 "input.")]
Negative = Annotated[list[str] | None, typer.Option("--negative", help="Negative prompt: one for all, or one each.")]
NegativeFile = Annotated[Path | None, typer.Option("--negatives", help="Text file with one negative prompt per line.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
RunOut = Annotated[str | None, typer.Option("--out", "-o", help="Run folder, path or URL; default: the spec's.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, local or any fsspec URL.")]
Steps = Annotated[int | None, typer.Option("--steps", "-n", help="Denoising steps; default: the pipeline's.")]
Scale = Annotated[float | None, typer.Option("--scale", help="The pipeline's own guidance scale; 1 is off.")]
Height = Annotated[int | None, typer.Option(help="Image height in pixels.")]
Width = Annotated[int | None, typer.Option(help="Image width in pixels.")]
Seeds = Annotated[str, typer.Option("--seeds", "-s", help="Seeds: 8, 8-11 or 8,13; every prompt with every seed.")]
Rules = Annotated[list[str], typer.Option("--guidance", "-g", autocompletion=method_names, help="A rule, in order: "
                                          "emag=1.5,variant=map or apg=4,eta=0; a text with a comma in it as "
                                          "key=\"a, b\". Repeat for more; see `emag methods`.")]
Recipe = Annotated[str | None, typer.Option(autocompletion=recipe_names, help="JSON file with rules, or a recipe by name "
                                            "(`emag methods`); not with -g.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per call of the pipeline.")]
Set = Annotated[list[str], typer.Option("--set", help="Further pipeline argument, key=value; the value is read as JSON.")]


def rules_of(short: list[str], named: str | None) -> tuple[Any, ...]:
    """Rules from -g options, from a recipe by name, or from a recipe file."""
    from ...records import recipe
    from ...records.named import recipes

    if short and named:
        raise BadValue("give rules with -g or with --recipe, not both")
    if named is None:
        return tuple(recipe.parse(text) for text in short)
    return recipes[named].rules if named in recipes or not Path(named).suffix else recipe.read_rules(named)


def column_of(short: list[str], named: str | None) -> Any:
    """`rules_of`, where -g may name correctors and a solver of our own sampling loop too: a `Column`."""
    from ..draw.columns import Column, read_part

    if named is not None or not short:
        return Column(named or "", rules_of(short, named))
    return Column.of(" ".join(short), [read_part(text) for text in short])


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Pipeline arguments from key=value texts."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not given or not key.isidentifier():
            raise BadValue(f"cannot read --set {pair!r}; write key=value")
        try:
            values[key] = parsed(value)
        except ValueError:
            values[key] = value
    return values


def lines(given: list[str], path: Path | None, what: str) -> list[str]:
    """Texts from the command and from a file of prompts (`-`: standard input), which `emag run` reads alike."""
    from ..evaluate.prompts import read_prompts

    texts = list(given)
    if path:
        texts += [one.text for one in read_prompts(str(path))]
    if not texts:
        raise BadValue(f'give at least one {what}, e.g. emag generate "a photo of a frog" ("" is the unconditional one)')
    return texts
