"""`run`: makes the images of a spec, or those that are missing in its folder."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import BadValue
from . import check
from .folder import RUN, RunFolder
from .local import devices_of, run_here, run_processes
from .spec import RunSpec, check_engine
from .tasks import batches
from .work import open_model

log = logging.getLogger("emag")

Total = Callable[[int, int], Callable[[int], None]]


def run(spec: RunSpec, out: str | None = None, engine: str | None = None, workers: int | None = None,
        begun: Total | None = None, shares: Mapping[str, float] | None = None) -> RunFolder:
    """Make what `spec` asks for and the folder lacks. The same call finishes a run that was killed.

    out, engine, workers: in the place of the spec's. workers: processes; None is one per device. begun: called once with
    the images already there and those wanted; what it returns is called with the images of each finished batch.
    shares: only this share of the images of these recipes (see `first`), and none of others; None makes all.
    Raises `BadValue`, `Unsupported` and `NoEffect`, all but the last before any image, and `Busy` where another runs.
    """
    folder = RunFolder(out or spec.out or _no_out())
    devices, chosen = devices_of(spec.model.device), engine or spec.engine
    check_engine(chosen)
    folder.storage.check()
    folder.storage.idle()
    pipe = open_model(spec.model, devices[0])
    spec = check.prepared(spec, pipe)
    facts = check.facts(spec, pipe)
    accepted(folder, spec, facts)  # before the lock, which makes the folder
    with folder.storage.lock():
        spec = begin(folder, spec, facts)
        missing, wanted = _wanted(folder, spec, shares)
        todo = batches(spec, missing)
        on_done = begun(wanted - sum(map(len, missing.values())), wanted) if begun else _silent
        if chosen == "local" and (workers or spec.workers or len(devices)) == 1:
            run_here(folder, pipe, todo, devices[0], on_done)
        else:
            del pipe  # its memory is for the workers
            torch.cuda.empty_cache()
            _elsewhere(chosen)(folder, todo, devices, workers or spec.workers, on_done)
    return folder


def first(spec: RunSpec, share: float) -> int:
    """How many images a share of a recipe's is, in whole batches and at least one."""
    whole = max(1, int(spec.total * share) // spec.batch_size)
    return spec.total if share == 1 else min(spec.total, whole * spec.batch_size)


def _wanted(folder: RunFolder, spec: RunSpec, shares: Mapping[str, float] | None) -> tuple[dict[str, list[int]], int]:
    """Missing numbers by recipe, and how many images are wanted in all."""
    missing = folder.missing()
    if shares is None:
        return missing, spec.total * len(spec.recipes)
    counts = {name: first(spec, share) for name, share in shares.items()}
    kept = {name: [number for number in missing[name] if number < count] for name, count in counts.items()}
    return kept, sum(counts.values())


def accepted(folder: RunFolder, spec: RunSpec, facts: dict[str, Any]) -> None:
    """Raise `BadValue` where the folder is none for this run: another run's, or not one of ours."""
    folder.check()
    differing = differences(folder, spec, facts) if folder.exists else []
    if differing:
        raise BadValue(f"{folder.url} holds another run: {', '.join(differing)} differ(s). Give another folder; "
                       "in this one, only more images and further recipes can be asked for")
    known = folder.run["spec"]["recipes"] if folder.exists else {}
    strange = [one.label for one in spec.recipes if one.label not in known and folder.parts(one.label)]
    if strange:
        raise BadValue(f"{folder.url} has images of {', '.join(strange)} that its {RUN} does not know: emag verify --repair "
                       "removes them, or name the recipe otherwise")


def begin(folder: RunFolder, spec: RunSpec, facts: dict[str, Any]) -> RunSpec:
    """Begin a run in the folder, or go on with the one that is there. The spec as it is stored."""
    folder.forget()  # another process may have begun since
    accepted(folder, spec, facts)
    if not folder.exists:
        folder.begin(spec, facts)
    begun = folder.run["versions"]
    if begun != facts["versions"]:
        log.warning("emag: the run was begun with %s; with others, images may differ in their bytes", begun)
    if folder.run["spec"] != plain(spec.as_data()) or not _has_prompts(folder):
        folder.begin(spec, {**facts, "versions": begun})
    for name in folder.drafts():
        folder.storage.remove(name)
    return folder.spec


def _has_prompts(folder: RunFolder) -> bool:
    """False where the prompts are gone or damaged; those of the accepted spec are the same, by their hash."""
    try:
        return check.prompts_hash(folder.prompts) == folder.run.get("prompts_sha256")
    except BadValue:
        return False


def plain(data: Any) -> Any:
    """Data as it comes back from JSON."""
    return json.loads(json.dumps(data))


def differences(folder: RunFolder, spec: RunSpec, facts: dict[str, Any]) -> list[str]:
    """Keys in which a spec asks for something else than more of the run in the folder."""
    old, new = folder.run["spec"], plain(spec.as_data())
    keys = [key for key in (*old, *new) if key not in ("images", "recipes", "prompts", "classes")]
    found = [key for key in dict.fromkeys(keys) if old.get(key) != new.get(key)]
    found += ["prompts"] if folder.run.get("prompts_sha256") != facts["prompts_sha256"] else []
    found += ["the model's configuration"] if folder.run.get("model_config_sha256") != facts["model_config_sha256"] else []
    found += [f"images (fewer than {old['images']})"] if new["images"] < old["images"] else []
    return found + [f"recipe {name}" for name, held in old["recipes"].items() if new["recipes"].get(name) != held]


def _elsewhere(engine: str) -> Callable[..., None]:
    if engine == "local":
        return run_processes
    from .ray_engine import run_ray

    return run_ray


def _silent(images: int) -> None:
    pass


def _no_out() -> str:
    raise BadValue("say where the run goes: `out: runs/first` in the spec, or --out")
