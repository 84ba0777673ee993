"""What a run makes, as data: a YAML file (or a mapping) becomes a frozen `RunSpec`, every key checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ...errors import BadValue
from ...methods.common.values import checked, hints_of
from ...near import choices
from ..draw.columns import Column
from ..draw.sampling import DrawSettings
from .prompts import Prompt, of_classes, of_list, of_world, read_prompts
from .recipes import read_recipes, recipe_data
from .unknown import refuse_unknown
from .yaml_file import load

PLACES = ("prompts", "classes", "recipes", "images", "per_prompt")


@dataclass(frozen=True)
class Model:
    """The model of a run, as `emag.load` takes it."""

    id: str = "tiny"
    dtype: str | None = None
    device: str | None = None
    revision: str | None = None
    offload: str | None = None
    lora: str | None = None
    base: str | None = None
    pipeline: str | None = None
    gguf: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class RunSpec:
    """A run: every recipe makes the same `total` images, image i from prompt i mod len(prompts) and the seed of i.

    prompts: () until a model says what `classes: all` is. classes: names, or "all". images or per_prompt: how many.
    source: how the prompts were declared. negative: what all images avoid. out: path or URL of the run folder.
    """

    model: Model
    recipes: tuple[Column, ...]
    prompts: tuple[Prompt, ...] = ()
    classes: str | tuple[str, ...] | None = None
    images: int | None = None
    per_prompt: int | None = None
    seed: int = 8
    steps: int | None = None
    batch_size: int = 16
    height: int | None = None
    width: int | None = None
    negative: str | None = None
    out: str | None = None
    engine: str = "local"
    workers: int | None = None
    source: Any = None

    def __post_init__(self) -> None:
        for name in ("images", "per_prompt", "batch_size", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadValue(f"{name} must be at least 1, got {getattr(self, name)}")
        check_engine(self.engine)
        if self.seed < 0:
            raise BadValue(f"seed must be at least 0, got {self.seed}")
        self.settings  # noqa: B018  (it checks its own values)

    @property
    def total(self) -> int:
        """Images per recipe."""
        return self.images or len(self.prompts) * (self.per_prompt or 1)

    @property
    def settings(self) -> DrawSettings:
        """The pipeline arguments that all recipes share."""
        return DrawSettings(self.steps, None, self.height, self.width)

    def recipe(self, name: str) -> Column:
        """A recipe by name. Raises `BadValue` where there is none."""
        found = next((one for one in self.recipes if one.label == name), None)
        if found is None:
            raise BadValue(f"the run has no recipe {name!r}; {choices(name, [one.label for one in self.recipes], 'it has')}")
        return found

    def only(self, names: Sequence[str]) -> "RunSpec":
        """The same run of these recipes alone, in the spec's order; of all where none is named. Raises `BadValue`."""
        asked = {self.recipe(name).label for name in names}
        return replace(self, recipes=tuple(one for one in self.recipes if not names or one.label in asked))

    def with_prompts(self, prompts: Sequence[Prompt]) -> "RunSpec":
        """The same with these prompts."""
        return replace(self, prompts=tuple(prompts))

    def as_data(self) -> dict[str, Any]:
        """JSON-ready data; `parse` makes the same spec of it and its prompts. Where and how it runs is left out."""
        own = {name: getattr(self, name) for name in ("seed", "steps", "batch_size", "height", "width", "negative")}
        model = {f.name: getattr(self.model, f.name) for f in fields(Model)}
        held = {"model": {key: value for key, value in model.items() if value is not None},
                **{key: value for key, value in own.items() if value is not None},
                "images": self.total, "recipes": {one.label: recipe_data(one) for one in self.recipes}}
        return held | ({"classes": self.classes if self.classes == "all" else list(self.classes)} if self.classes
                       else {"prompts": self.source})


def read_spec(path: str | Path, images: int | None = None, device: str | None = None) -> RunSpec:
    """The spec in a YAML file. Files it names are looked for from here, then beside it. Raises `BadValue`.

    images, device: in the place of the file's.
    """
    return parse(yaml_of(path, images, device), beside=Path(path).parent)


def yaml_of(path: str | Path, images: int | None = None, device: str | None = None) -> Any:
    """What a YAML file holds, with other images or device where given. Raises `BadValue` where it cannot be read."""
    try:
        return _changed(load(Path(path).read_text(encoding="utf-8")), images, device)
    except OSError as error:
        raise BadValue(f"cannot read the spec {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # dates that there are not, bytes that are no text
        raise BadValue(f"the spec {path} is not valid YAML: {' '.join(str(error).split())[:300]}") from None


def _changed(data: Any, images: int | None, device: str | None) -> Any:
    if not isinstance(data, Mapping):
        return data
    held = {**data} if images is None else {**{k: v for k, v in data.items() if k != "per_prompt"}, "images": images}
    model = held.get("model", "tiny")
    named = dict(model) if isinstance(model, Mapping) else {"id": model}
    return held if device is None else {**held, "model": {**named, "device": device}}


def parse(data: Any, prompts: Sequence[Prompt] | None = None, beside: Path = Path()) -> RunSpec:
    """A spec from data; `prompts`, where given, are taken for those it names. Raises `BadValue`."""
    hints = {key: hint for key, hint in hints_of(RunSpec).items() if key not in ("source", *PLACES, "model")}
    known = ("model", *PLACES, *hints)
    refuse_unknown("the spec", data, known)
    if not data.get("recipes"):
        raise BadValue("the spec needs recipes, e.g. {cfg: {guidance_scale: 2.5}}")
    _one_of(data, "prompts", "classes")
    _one_of(data, "images", "per_prompt", needed=False)
    counts = {key: checked(f"spec {key}", data[key], int) for key in ("images", "per_prompt") if data.get(key) is not None}
    plain = {key: checked(f"spec {key}", data[key], hint) for key, hint in hints.items() if data.get(key) is not None}
    said = data.get("classes")
    classes = None if said is None else said if said == "all" else tuple(map(str, _listed("classes", said)))
    found = prompts if prompts is not None else _prompts(data, classes, beside)
    return RunSpec(_model(data.get("model", "tiny")), read_recipes(data["recipes"]), tuple(found), classes,
                   source=data.get("prompts"), **counts, **plain)


def check_engine(name: str) -> None:
    """Raise `BadValue` for an engine that there is not, or that is not installed."""
    if name not in ("local", "ray"):
        raise BadValue(f"engine must be local or ray, got {name!r}")
    if name == "ray" and find_spec("ray") is None:
        raise BadValue("the ray engine needs Ray: pip install emag[ray]")


def _one_of(data: Mapping[str, Any], first: str, second: str, needed: bool = True) -> None:
    given = [key for key in (first, second) if data.get(key) is not None]
    if len(given) == 2 or (needed and not given):
        raise BadValue(f"the spec {'has both' if given else 'needs'} {first} {'and' if given else 'or'} {second}"
                       + ("; keep one" if given else ""))


def _listed(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        also = ", or all" if what == "classes" else ""
        raise BadValue(f"spec {what} must be a list that is not empty{also}, got {value!r}")
    return value


def _prompts(data: Mapping[str, Any], classes: Any, beside: Path) -> Sequence[Prompt]:
    declared = data.get("prompts")
    if classes is not None:
        return () if classes == "all" else of_classes(classes)
    if not isinstance(declared, Mapping):
        return of_list(_listed("prompts", declared))
    if "world" in declared:
        refuse_unknown("spec prompts", declared, ("world", "count"))
        return of_world(**declared, seed=checked("spec seed", data.get("seed", RunSpec.seed), int))
    refuse_unknown("spec prompts", declared, ("file", "column", "category", "limit"))
    return read_prompts(beside=beside, **declared)


def _model(data: Any) -> Model:
    if isinstance(data, str):
        return Model(data)
    hints = hints_of(Model)
    refuse_unknown("spec model", data, tuple(hints))
    return Model(**{key: checked(f"model {key}", value, hints[key]) for key, value in data.items()})
