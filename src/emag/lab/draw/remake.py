"""The pipeline that a record tells of, opened again: everything checked, and refused before it is loaded where it can be."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...core import Rule
from ...errors import BadValue, EmagError
from ...methods.common.other_model import LOAD
from ...records import fingerprint, recipe
from ...records.record import ORIGIN, SOURCE, images_of, versions
from ...records.seeds import MOST

MOST_STEPS = 10_000
MOST_OF = {"num_inference_steps": MOST_STEPS, "height": 16_384, "width": 16_384, "num_images_per_prompt": 1_000}
"""What a record may ask for."""


def check(record: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a record with a row. Raises `BadValue` where its image cannot be made again; loads nothing."""
    if record["unrecorded"]:
        lost = (name if name.isprintable() else repr(name) for name in record["unrecorded"])
        raise BadValue(f"{', '.join(lost)} could not be recorded")
    seeds, count = record["seeds"], images_of(record)
    if not record["model"] or not record["model"]["model"]:
        raise BadValue("its model is not recorded")
    if seeds is None:
        raise BadValue("its seeds are not recorded")
    if not 0 < count <= MOST or (isinstance(seeds, list) and len(seeds) != count):
        many = len(seeds) if isinstance(seeds, list) else 1
        raise BadValue(f"the emag record is damaged: it tells of {count} images and {many} seeds")
    if record["row"] >= count:
        raise BadValue(f"the emag record is damaged: it names row {record['row']} of {count} images")
    _check_size(record["call"])
    return recipe.from_data(record["rules"])


def _check_size(call: Mapping[str, Any]) -> None:
    """Refuse what would fill the machine: a picture of strangers may ask for it."""
    for name, most in MOST_OF.items():
        if isinstance(call.get(name), (int, float)) and call[name] > most:
            raise BadValue(f"it asks for {name}={call[name]}, at most {most} is made again")


@contextmanager
def refused() -> Iterator[None]:
    """Every error of a call with a stranger's arguments as one line."""
    try:
        yield
    except EmagError:
        raise
    except Exception as error:
        raise BadValue(f"it cannot be drawn: {str(error).partition(chr(10))[0] or type(error).__name__}") from error


def moved(record: Mapping[str, Any], given: Mapping[str, str | None]) -> dict[str, Any]:
    """A record whose model is found elsewhere. given: what takes the place of its parts; None leaves one."""
    changed = {name: value for name, value in given.items() if name in SOURCE and value is not None}
    return {**record, "model": {**record["model"], **changed}}


def sources(record: Mapping[str, Any]) -> list[str]:
    """What will be loaded to make an image again, a line for each."""
    model = record["model"]
    revision = f", revision {model['revision']!r}" if model.get("revision") else ""
    lora = [f"the LoRA {model['lora']!r}"] if model.get("lora") else []
    parts = [f"its {name} {model[name]!r}" for name in ORIGIN if model.get(name)]
    return [f"the model {model['model']!r}{revision}", *parts, *lora, *networks(record["rules"])]


def networks(rules: Any) -> list[str]:
    """The further networks that rules as data load, a line for each."""
    named = dict.fromkeys(text for text in _texts(rules) if text.startswith(LOAD))
    return [f"the second network {name.removeprefix(LOAD)!r}" for name in named]


def _texts(data: Any) -> list[str]:
    """Every text in JSON data."""
    if isinstance(data, (dict, list)):
        return [text for item in (data.values() if isinstance(data, dict) else data) for text in _texts(item)]
    return [data] if isinstance(data, str) else []


def older(record: Mapping[str, Any]) -> list[str]:
    """Packages whose version is another one than the record's: "name 1.0 (here 2.0)"."""
    made = record["versions"]
    return [f"{name} {made.get(name)} (here {here})" for name, here in versions().items() if made.get(name) != here]


def fit(pipe: Any, record: Mapping[str, Any]) -> None:
    """Give a loaded pipeline the record's scheduler. Raises `BadValue` for another pipeline or other weights."""
    name = type(pipe).__name__
    if record.get("pipeline", name) != name:
        raise BadValue(f"it was made by a {record['pipeline']!r}, and {record['model']['model']!r} is loaded as a {name}")
    state = record.get("state")
    if state is None:  # of an older version, which did not look
        return
    if state.get("scheduler") is not None and fingerprint.scheduler(pipe) != state["scheduler"]:
        pipe.scheduler = scheduler(state["scheduler"])
    here = fingerprint.networks(pipe)
    changed = [part for part, mark in state["networks"].items() if mark and here.get(part) and here[part] != mark]
    if changed and not older(record):
        raise BadValue(f"{', '.join(changed)} of {record['model']['model']!r} is not what it was when the image was made: "
                       "its weights or settings have changed since")


def scheduler(data: Mapping[str, Any]) -> Any:
    """A diffusers scheduler from its class and configuration. Raises `BadValue` for anything else."""
    import diffusers

    name, config = data["class"], data["config"]
    cls = getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, diffusers.SchedulerMixin):
        raise BadValue(f"this diffusers has no scheduler {name!r}")
    if any(isinstance(value, int) and abs(value) > MOST_STEPS for value in config.values()):
        raise BadValue(f"the scheduler {name} cannot be set up: at most {MOST_STEPS} steps of training are")
    try:
        return cls(**config)
    except Exception as error:  # of numpy, torch or diffusers, whatever the values are
        raise BadValue(f"the scheduler {name} cannot be set up: {str(error).partition(chr(10))[0]}") from error


def differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the parts of two records that differ."""
    found = []
    for key in sorted({*record, *now} - {"row", "state", "versions"}):
        found += [key] if record.get(key) != now.get(key) else []
    one, two = (each.get("state") or {"networks": {}} for each in (record, now))
    found += [part for part in sorted({*one["networks"], *two["networks"]})
              if one["networks"].get(part) != two["networks"].get(part)]
    return found + ([] if one.get("scheduler") == two.get("scheduler") else ["scheduler"])
