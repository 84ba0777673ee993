"""A family: its networks, its pipelines, defaults with their sources, and the five lines of each pretrained model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .network import Backbone
from .pipeline import Host


@dataclass(frozen=True)
class Default:
    """Default parameters of one rule on one model."""

    values: dict[str, Any]
    """By the rule's field. Layers are block numbers, or fractions of the depth."""
    source: str
    """Where they come from, for docs and messages."""


@dataclass(frozen=True)
class Example:
    """One pretrained model, and the five lines that make it work."""

    title: str
    """Its name for a person."""
    name: str
    """Its hub id."""
    pipeline: str
    """The pipeline class."""
    small: str
    """The small pipeline of `emag.testing` that stands for it in tests."""
    call: str = ""
    """Arguments beside the prompt."""
    prompt: str = '"a lighthouse at dusk"'
    """What is asked for, as code."""
    rule: str = "emag.EMAG()"
    """The rule, as code."""
    output: str = "images"
    """The attribute of the answer that holds the pictures."""
    note: str = ""
    """What to know before using it."""

    @property
    def lines(self) -> str:
        """The five lines."""
        call = ", ".join(filter(None, (self.prompt, self.call)))
        return "\n".join(("import emag", f'pipe = emag.load("{self.name}")',
                          f"with emag.guide(pipe, {self.rule}) as run:",
                          f"    {self.output} = pipe({call}).{self.output}", "print(run)"))


@dataclass(frozen=True)
class Family:
    """Everything we know of one model family. `emag.register` adds one of your own."""

    title: str
    """Its name for a person."""
    networks: tuple[Backbone, ...] = ()
    """Its denoiser classes."""
    pipelines: tuple[Host, ...] = ()
    """The pipeline classes that drive them."""
    defaults: Mapping[str, Mapping[str, Default]] = field(default_factory=dict)
    """Defaults of rules, by network class (or the name of an embedded model, or "*"), then by the rule's name."""
    examples: tuple[Example, ...] = ()
    """Pretrained models, for docs and tests."""
