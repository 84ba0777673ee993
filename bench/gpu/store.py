"""The JSON file of the GPU suite: written whole after every line, and gone on with by the next call."""

import json
import platform
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import emag
from emag.files import whole

KINDS = ("lines", "sync", "profile", "storage")


@dataclass
class Store:
    """Results by kind and key; `session` is the number of this call among those that wrote the file."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> "Store":
        """The results at `path`, or none yet. Raises `ValueError` where they were measured under other settings."""
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        other = {name: value for name, value in held.get("settings", settings).items() if settings[name] != value}
        if other:
            raise ValueError(f"{path.name} was measured with {other}: give the same, or another file")
        data = {"settings": settings, "sessions": [], **{kind: {} for kind in KINDS}, **held, "left": []}
        data["sessions"].append(session(settings["device"]))
        return cls(path, data)

    @property
    def session(self) -> int:
        return len(self.data["sessions"]) - 1

    def has(self, kind: str, key: str) -> bool:
        return key in self.data[kind]

    def failed(self, kind: str, key: str) -> bool:
        return "failed" in self.data[kind].get(key, {})

    def forget_failed(self) -> None:
        """Let what failed be tried again."""
        for kind in KINDS:
            self.data[kind] = {key: value for key, value in self.data[kind].items() if "failed" not in value}

    def repeats(self, key: str) -> list[dict[str, Any]]:
        return self.data["lines"].get(key, {}).get("repeats", [])

    def put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Take in a result, beside what is held of it, and write the file."""
        self.data[kind][key] = {**self.data[kind].get(key, {}), **value}
        self.save()

    def repeat(self, key: str, repeat: dict[str, Any], common: dict[str, Any]) -> None:
        """Take in one more timed run of a line."""
        self.put("lines", key, {**common, "repeats": [*self.repeats(key), {**repeat, "session": self.session}]})

    def save(self) -> None:
        with whole(self.path) as draft:
            draft.write_text(json.dumps(self.data, indent=1), encoding="utf-8")


def session(device: str) -> dict[str, Any]:
    """When a call ran, and on what."""
    versions = {"emag": emag.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__,
                "transformers": transformers.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    machine = {"system": platform.system(), "processor": platform.machine(), "threads": torch.get_num_threads()}
    if device != "cpu":
        card = torch.cuda.get_device_properties(0)
        machine |= {"gpu": card.name, "bytes": card.total_memory, "capability": f"{card.major}.{card.minor}",
                    "processors": card.multi_processor_count}
    return {"began": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": machine, "versions": versions}
