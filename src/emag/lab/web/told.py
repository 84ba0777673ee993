"""The same picture without the page: a command line, and a few lines of Python."""

import shlex
from dataclasses import fields, is_dataclass
from typing import Any

from ...records.record import ORIGIN
from ...schedules import Window
from ..draw.sampling import arguments
from .job import Ask
from .model import Model
from .stack import short


def shell(model: Model, ask: Ask) -> str:
    """The `emag generate` line. Raises `BadValue` for a rule that has no short form."""
    settings = ask.settings
    named = {"--class" if name == "pipeline" else f"--{name}": value for name, value in source(model).items()}
    given = {"-m": model.name, **named, "--negative": ask.negative,
             "--steps": settings.steps, "--scale": settings.scale, "--height": settings.height, "--width": settings.width}
    options = [word for name, value in given.items() if value is not None for word in (name, f"{value}")]
    rules = [word for rule in ask.rules for word in ("-g", short(rule))]
    return shlex.join(["emag", "generate", *options, *rules, "--seeds", seeds(ask.seeds), "--", ask.prompt])


def source(model: Model) -> dict[str, str]:
    """What was said of the model beside its name when it was loaded, by the keywords of `emag.load`."""
    said = model.pipe.emag_source or {}
    return {name: said[name] for name in ("revision", "lora", *ORIGIN) if said.get(name)}


def seeds(found: tuple[int, ...]) -> str:
    """Seeds as the command line takes them."""
    if len(found) > 1 and found == tuple(range(found[0], found[0] + len(found))):
        return f"{found[0]}-{found[-1]}"
    return ",".join(map(str, found))


def python(model: Model, ask: Ask) -> str:
    """The lines of Python."""
    call = arguments(model.pipe, ask.jobs, ask.settings)
    given = ", ".join(f"{name}={value!r}" for name, value in call.items())
    loaded = ", ".join([repr(model.name), *(f"{name}={value!r}" for name, value in source(model).items())])
    given_rules = "".join(f", {code(rule)}" for rule in ask.rules)
    return "\n".join([
        "import emag, torch", "", f"pipe = emag.load({loaded})",
        f"generators = [torch.Generator().manual_seed(seed) for seed in {list(ask.seeds)}]",
        f"with emag.guide(pipe{given_rules}) as run:",
        f"    out = pipe({given}, generator=generators)", 'run.save(out.images, "out")'])


def code(value: Any) -> str:
    """A rule, or a value of one, as Python."""
    if isinstance(value, tuple):
        return f"({''.join(f'{code(one)}, ' for one in value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    # a window is told whole: its first numbers say little without the others
    told = [one.name for one in fields(value) if isinstance(value, Window) or getattr(value, one.name) != one.default]
    return f"emag.{type(value).__name__}({', '.join(f'{name}={code(getattr(value, name))}' for name in told)})"
