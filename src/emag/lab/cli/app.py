"""The application: its commands in the order a newcomer needs them, and what all of them have in common."""

import functools
from collections.abc import Callable
from importlib import import_module
from inspect import cleandoc
from typing import Annotated, Any, TypeVar, cast

import typer
import typer.core
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_command_from_info

from ...errors import EmagError
from ...hosts.extras import require
from ...near import choices
from .loading import gathered, spread

SECTIONS = {
    "Draw": ("demo", "generate", "compare", "web", "show", "again"),
    "Write": ("text",),
    "Look up": ("models", "methods", "plan"),
    "Look inside": ("doctor", "calibrate"),
    "Train": ("bake",),
    "Elsewhere": ("comfy",),
    "Evaluate": ("run", "verify", "reference", "metrics", "report", "vote", "sweep", "results", "worth", "reproduce"),
}
MODULES = {"again": "show", "models": "listing", "methods": "listing", "reference": "metrics"}
"""Where a command is that does not stand in the module of its name."""
Function = TypeVar("Function", bound=Callable[..., None])


class Interrupted(EmagError):
    """Ctrl-C: what is kept, and what the same command does."""


class Commands(TyperGroup):
    """The commands in the order of `SECTIONS`, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        import_module(f".{MODULES.get(cmd_name, cmd_name)}", __package__)
        info = next(info for info in app.registered_commands if info.name == cmd_name)
        return get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode="rich")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; {choices(args[0], known)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names alone: their help would import them all."""
        item = typer.core.CompletionItem
        names = [item(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return names or super().shell_complete(ctx, incomplete)


app = typer.Typer(name="emag", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  epilog="To begin with:\n\nemag demo\n\nemag generate \"a photo of a ship\" -g emag=1.5\n\n"
                         "emag COMMAND --help")


def _version(asked: bool) -> None:
    if asked:
        from ... import __version__

        print(f"emag {__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="Show the version and exit.")] = False) -> None:
    """Guidance for diffusion transformers at sampling time, without training: try methods, compare them, measure them."""


def command(*examples: str, kept: str, needs: tuple[str, ...] = (), without: tuple[str, ...] = ()
            ) -> Callable[[Function], Function]:
    """Register a command under its function's name.

    examples: command lines for its help. kept: what to say after ctrl-c, with the command's arguments in braces: what is
    kept, and what the same command does then. needs: extras of pyproject.toml, looked for before anything else.
    without: options of loading (`Loading`) that a command with a model does not take.
    """

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            try:
                require(*needs)
                function(**gathered(function, given))
            except KeyboardInterrupt:
                raise Interrupted(kept.format(**given)) from None

        # typer reads the one, inspect the other
        signature, told = spread(function, without), cast(Any, run)
        told.__signature__ = signature
        told.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        name = function.__name__
        section = next(section for section, names in SECTIONS.items() if name in names)
        app.command(name, help=flowing(function.__doc__ or ""), rich_help_panel=section,
                    epilog="\n\n".join(["Examples:", *map(escape, examples)]))(run)
        return function

    return register


def flowing(text: str) -> str:
    """A docstring whose paragraphs are one line each, to be folded to whatever width there is; lists stay as they are."""
    return "\n\n".join(part if part.lstrip().startswith("-") or "\n  " in part else " ".join(part.split())
                       for part in cleandoc(text).split("\n\n"))
