"""Published protocols as data: what was run, on which prompts, and which numbers came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import BadValue
from ...files import parsed
from ...near import choices
from .prompts import Prompt, read_prompts
from .spec import RunSpec, parse
from .yaml_file import load

SPECS = Path(__file__).parent / "specs"
CHECK = {"model": "tiny", "classes": ["frog", "ship"], "images": 4, "steps": 8, "batch_size": 2}
"""What a check runs in the place of the protocol: small, but every recipe."""
STAND_INS = {"inception-fd": "random-fd", "hps2.1": "random-diversity", "hps2.1-median": "contrast"}
"""What a check measures: the same statistic of random features, or for scores of single images any of them."""


@dataclass(frozen=True)
class Protocol:
    """A published experiment. run: a run spec without folder, and without prompts where `captions`.

    published: values by recipe, then by metric. source: where they stand. notes: what is known to differ.
    """

    name: str
    title: str
    source: str
    captions: bool
    metrics: tuple[str, ...]
    published: dict[str, dict[str, float]]
    notes: tuple[str, ...]
    run: dict[str, Any]

    @property
    def model(self) -> str:
        """Hub id or folder of the model."""
        return self.run["model"] if isinstance(self.run["model"], str) else self.run["model"]["id"]

    @property
    def recipes(self) -> list[str]:
        """Names of the recipes."""
        return list(self.run["recipes"])

    def changed(self, model: str | None = None, recipes: Sequence[str] = (), images: int | None = None,
                **loading: str) -> "Protocol":
        """The same on another model, with some recipes or with fewer images. Raises `BadValue`.

        loading: how the model is loaded, as `emag.load` takes it.
        """
        unknown = [name for name in recipes if name not in self.run["recipes"]]
        if unknown:
            raise BadValue(f"{self.name} has no recipe {', '.join(unknown)}; "
                           + choices(unknown[0], self.run["recipes"], "it has"))
        run = {**self.run, "recipes": {name: self.run["recipes"][name] for name in recipes or self.run["recipes"]}}
        if model == "tiny" and not loading:
            run["model"] = model
        elif model is not None or loading:
            held = self.run["model"] if isinstance(self.run["model"], dict) else {"id": self.run["model"]}
            run["model"] = {**held, **({"id": model} if model else {}), **loading}
        return replace(self, run=run if images is None else {**run, "images": images})

    def check(self) -> "Protocol":
        """Every recipe on the embedded model, a handful of images in few steps, measured with random features."""
        recipes = {name: _carried(one, self.run["steps"]) for name, one in self.run["recipes"].items()}
        run = {**CHECK, "seed": self.run["seed"], "recipes": recipes}
        return replace(self, captions=False, run=run, metrics=tuple(STAND_INS[name] for name in self.metrics))

    def spec(self, captions: str | None, out: str) -> RunSpec:
        """The run. Raises `BadValue` for captions that are not given, cannot be read, or are too few."""
        if not self.captions:
            return parse({**self.run, "out": out})
        if captions is None:
            raise BadValue("captions: give --captions FILE, COCO's captions_val2014.json or a file with a caption a line")
        known = read_captions(captions, self.run["images"])
        return parse({**self.run, "out": out, "prompts": {"file": Path(captions).name}}, known)

    def value(self, recipe: str, metric: str) -> float | None:
        """The published value; None where there is none, as for what a check measures."""
        return self.published.get(recipe, {}).get(metric)


def _carried(recipe: dict[str, Any], steps: int) -> dict[str, Any]:
    """A recipe for other numbers of steps: its windows by the indices of a run of `steps` keep their place in a run."""
    def rule(data: dict[str, Any]) -> dict[str, Any]:
        window = data.get("window")
        if not window or window.get("unit") != "index":
            return data
        return {**data, "window": {**window, "unit": "published", "base": steps - 1}}

    rules = [{name: rule(data) for name, data in one.items()} for one in recipe.get("rules", ())]
    return {**recipe, "rules": rules} if rules else recipe


def names() -> list[str]:
    """The protocols that there are."""
    return sorted(path.stem for path in SPECS.glob("*.yaml"))


def read(name: str) -> Protocol:
    """A protocol by name. Raises `BadValue` where there is none."""
    if name not in names():
        raise BadValue(f"there is no protocol {name!r}; {choices(name, names())}")
    data = load((SPECS / f"{name}.yaml").read_text(encoding="utf-8"))
    return Protocol(name, **{**data, "metrics": tuple(data["metrics"]), "notes": tuple(data["notes"])})


def read_captions(file: str, wanted: int) -> tuple[Prompt, ...]:
    """The first `wanted` captions of a file: COCO annotations (one caption an image, the first), or any prompt file.

    Raises `BadValue` where there are fewer.
    """
    found = _coco(file) or read_prompts(file)
    if len(found) < wanted:
        raise BadValue(f"{file} has {len(found)} captions, and the protocol takes {wanted}; with fewer, ask for --images "
                       f"{len(found)}: the numbers are then not those published")
    return tuple(found[:wanted])


def _coco(file: str) -> list[Prompt]:
    """The captions in COCO's annotations; none where the file is another one."""
    if not file.endswith(".json"):
        return []
    try:
        found = parsed(Path(file).expanduser().read_bytes())
        if isinstance(found, list):
            return []
        first: dict[Any, str] = {}
        for row in found["annotations"]:
            first.setdefault(row["image_id"], row["caption"].strip())
    except OSError as error:
        raise BadValue(f"cannot read the captions in {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadValue(f"{file} is no file of COCO captions: it has no annotations with image_id and caption") from None
    return [Prompt(text) for text in first.values()]
