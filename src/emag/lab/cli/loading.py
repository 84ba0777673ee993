"""How a model is loaded: the options that all commands with a model share, and what they open."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="Embedded model, local folder, hub id, "
                                    "or a safetensors or GGUF file; see `emag models`.")]
NamedModel = Annotated[str, typer.Argument(metavar="MODEL", help="Embedded model, local folder, hub id, or a safetensors or "
                                           "GGUF file; see `emag models`.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: cuda where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: the model's.")]
Offload = Annotated[str | None, typer.Option(help="model or sequential: keep weights on the CPU between uses.")]
Lora = Annotated[str | None, typer.Option(help="LoRA weights, file, folder or hub id, as path or path:weight; "
                                          "path:w=SCALE of one with guidance baked in.")]
Base = Annotated[str | None, typer.Option(help="With a single file as the model: folder or hub id of what the file lacks; "
                                          "default: told by its keys.")]
PipelineClass = Annotated[str | None, typer.Option("--class", help="Pipeline class; default: the one that the model names.")]
Gguf = Annotated[str | None, typer.Option(help="GGUF file whose network takes the place of the model's own.")]
WeightsVariant = Annotated[str | None, typer.Option(help="Variant of the weights' files, e.g. fp16.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]


@dataclass(frozen=True)
class Loading:
    """The keywords of `emag.load` as options. A command that has a parameter of this type has all of them."""

    device: Device = None
    dtype: Dtype = None
    offload: Offload = None
    lora: Lora = None
    base: Base = None
    pipeline: PipelineClass = None
    gguf: Gguf = None
    variant: WeightsVariant = None
    revision: Revision = None

    @property
    def given(self) -> dict[str, str]:
        """What is not None, by the keywords of `emag.load`."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def words(self) -> list[str]:
        """The same as words of a command line."""
        return [word for name, value in self.given.items() for word in (f"--{FLAGS.get(name, name)}", value)]


FLAGS = {"pipeline": "class"}
"""Options that are called otherwise than the keyword."""
ANY = Loading()
"""Nothing said."""


def spread(function: Callable[..., None], without: tuple[str, ...]) -> inspect.Signature:
    """A command's signature with an option for each field of `Loading` in the place of the parameter of that type.

    without: fields that the command does not take.
    """
    found = []
    for one in inspect.signature(function, eval_str=True).parameters.values():
        kept = [field for field in fields(Loading) if field.name not in without] if one.annotation is Loading else None
        found += [one] if kept is None else [
            inspect.Parameter(field.name, one.kind, default=None, annotation=field.type) for field in kept]
    return inspect.Signature(found)


def gathered(function: Callable[..., None], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command whose signature was `spread`, as the function takes them."""
    known = inspect.signature(function, eval_str=True).parameters
    names = [name for name, one in known.items() if one.annotation is Loading]
    if not names:
        return given
    own = {field.name: given[field.name] for field in fields(Loading) if field.name in given}
    return {**{name: value for name, value in given.items() if name not in own}, names[0]: Loading(**own)}


def open_pipeline(model: str, loading: Loading = ANY) -> Any:
    """Load a pipeline, its own progress bar off. Raises as `emag.load`."""
    from ...hosts.load import load

    given: dict[str, Any] = dict(loading.given)  # texts of users: load looks at each
    pipe = load(model, **given)
    pipe.set_progress_bar_config(disable=True)
    return pipe
