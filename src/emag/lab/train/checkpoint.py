"""Checkpoints of a training run: one safetensors file with the run's facts in its header, so it is never half new."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...errors import BadValue
from ...files import parsed
from ...models import folder
from .trainer import Trainer, TrainSettings
from .world import Scenes

FILE, HEADER = "checkpoint.safetensors", "emag_training"


def save(trainer: Trainer, out: Path, seconds: float) -> None:
    """Write the checkpoint, then the model in the form that `emag.load` reads."""
    tensors = trainer.optimizers.training() | {f"average/{name}": p for name, p in trainer.average.items()}
    facts = {"step": trainer.step, "seconds": seconds, "settings": _plain(trainer.settings)}
    out.mkdir(parents=True, exist_ok=True)
    folder.save_tensors(out / FILE, tensors, {HEADER: json.dumps(facts)})
    export(trainer, out, seconds)


def export(trainer: Trainer, out: Path, seconds: float) -> None:
    """Write the averaged weights in the form that `emag.load` reads."""
    config = json.loads(trainer.model["network"].to_json_string())
    seen = trainer.step * trainer.batch_size
    if isinstance(trainer.task, Scenes):
        folder.write_autoencoder(out, trainer.task.autoencoder)
    folder.write_folder(out, config, trainer.averaged("network"), trainer.averaged("words"), {
        **trainer.task.facts(), "steps": trainer.step, "images_seen": seen, "minutes": round(seconds / 60, 1)})


def restore(trainer: Trainer, out: Path) -> float:
    """Continue where the checkpoint in `out` stopped; returns the seconds trained so far, 0 where there is none.

    Raises `BadValue` where the folder holds a run with other settings, or another model.
    """
    if not (out / FILE).is_file():
        if (out / folder.NETWORK).exists():
            raise BadValue(f"{out} holds a model but no {FILE} to continue from; choose another folder")
        return 0.0
    try:
        with safe_open(out / FILE, "pt") as file:
            facts = parsed((file.metadata() or {})[HEADER])
            before, seconds, step = dict(facts["settings"]), float(facts["seconds"]), int(facts["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadValue(f"{out / FILE} is no checkpoint that can be read: {folder.first_line(error)}") from error
    _check(before, _plain(trainer.settings), out)
    _fill(trainer, tensors, step)
    return seconds


def _check(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    usual = _plain(TrainSettings())  # a run of an earlier version, which had fewer settings
    changed = [f"{name}={before.get(name, usual[name])}" for name in now if before.get(name, usual[name]) != now[name]]
    if changed:
        raise BadValue(f"{out} holds a run with {', '.join(changed)}; use the same options, or another folder")


@torch.no_grad()
def _fill(trainer: Trainer, tensors: dict[str, torch.Tensor], step: int) -> None:
    for name, average in trainer.average.items():
        average.copy_(tensors[f"average/{name}"])
    trainer.optimizers.resume(tensors, step)
    trainer.step = step


def _plain(settings: TrainSettings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))
