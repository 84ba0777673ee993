"""What the commands share: options, and how they are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ...errors import BadValue
from ...files import parsed
from ...records.seeds import read_seeds as seeds_of
from .app import app, command
from .bars import progress
from .outputs import check_out, file_in
from .screen import err, out, show_json, table

__all__ = ["app", "check_out", "column_of", "command", "err", "file_in", "lines", "open_pipeline", "out", "progress",
           "rules_of", "seeds_of", "settings_of", "show_files", "show_json", "table"]


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
Model = Annotated[str, typer.Option("--model", "-m", help="Embedded model, local folder, hub id, "
                                        "or a safetensors or GGUF file; see `emag models`.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: cuda where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: the model's.")]
Offload = Annotated[str | None, typer.Option(help="model or sequential: keep weights on the CPU between uses.")]
Lora = Annotated[str | None, typer.Option(help="LoRA weights, file, folder or hub id, as path or path:scale.")]
Base = Annotated[str | None, typer.Option(help="With a single file as -m: folder or hub id of what the file lacks; default: "
                                          "told by its keys.")]
PipelineClass = Annotated[str | None, typer.Option("--class", help="Pipeline class; default: the one that the model names.")]
Gguf = Annotated[str | None, typer.Option(help="GGUF file whose network takes the place of the model's own.")]
WeightsVariant = Annotated[str | None, typer.Option(help="WeightsVariant of the weights' files, e.g. fp16.")]
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


def open_pipeline(model: str, device: str | None = None, dtype: str | None = None, offload: str | None = None,
                  lora: str | None = None, revision: str | None = None, **origin: str | None) -> Any:
    """Load a pipeline, its own progress bar off. origin: base, pipeline, gguf and variant, as `emag.load` takes them."""
    from ...hosts.load import load

    pipe = load(model, device=device, dtype=dtype, offload=cast(Any, offload), lora=lora, revision=revision,
                **origin)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def lines(given: list[str], path: Path | None, what: str) -> list[str]:
    """Texts from the command and from a file of prompts (`-`: standard input), which `emag run` reads alike."""
    from ..evaluate.prompts import read_prompts

    texts = list(given)
    if path:
        texts += [one.text for one in read_prompts(str(path))]
    if not texts:
        raise BadValue(f'give at least one {what}, e.g. emag generate "a photo of a frog" ("" is the unconditional one)')
    return texts
