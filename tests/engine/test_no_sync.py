"""The steps of a run never wait for the device. The network and all state live on a device that holds no numbers ("meta"):
whoever reads one fails, and whoever copies to it is seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import emag
from cases import EMAG
from emag.engine.run import Run
from emag.methods import METHODS
from tiny import CASES


class Copies(TorchDispatchMode):
    """Raises where numbers go from one device to another."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = op(*args, **(kwargs or {}))
        if "copy" in str(op):
            devices = {a.device.type for a in (*args, made) if isinstance(a, torch.Tensor)}
            assert len(devices) < 2, f"{op} between {devices}"
        return made


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


@contextmanager
def moved(network: torch.nn.Module) -> Iterator[None]:
    """The weights of a network on the device without numbers."""
    held = [(kept, dict(kept)) for module in network.modules() for kept in (module._parameters, module._buffers)]
    for kept, own in held:
        kept.update({name: on_device(tensor) for name, tensor in own.items() if tensor is not None})
    yield
    for kept, own in held:
        kept.update(own)


def without_numbers(monkeypatch: Any, network: torch.nn.Module) -> None:
    """Every call of the network, with all that the run does around it, on a device without numbers; the rest on the CPU."""
    evaluate = Run.evaluate

    def watched(run: Run, forward: Any, args: tuple, kwargs: dict[str, Any], *more: Any) -> Any:
        with moved(network):
            there = tree_map_only(torch.Tensor, on_device, (args, kwargs))
            with Copies():
                made = evaluate(run, forward, *there, *more)
        return tree_map_only(torch.Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype), made)

    monkeypatch.setattr(Run, "evaluate", watched)
    monkeypatch.setattr("emag.engine.seam.in_full_precision", lambda handle, call, live: handle(call, live))  # no autocast
    monkeypatch.setattr("emag.engine.run.Run.finish", lambda run: None)  # what is read after the last step
    monkeypatch.setattr("emag.hosts.pipeline.stats", lambda run, seconds: None)


def run(monkeypatch: Any, case: str, *rules: Any) -> None:
    pipe = CASES[case].pipe()
    without_numbers(monkeypatch, pipe.transformer)
    with emag.guide(pipe, *rules):
        CASES[case].run(pipe)


RULES = {"query": EMAG(), "map": EMAG(variant="map"), "image": EMAG(variant="image"),
         "8 bits": EMAG(variant="map", maps="scaled8"), "every": EMAG(every=2), "apg": emag.APG(4.0),
         "pag": METHODS["pag"](1.5), "seg": METHODS["seg"](1.5), "slg": METHODS["slg"](1.5), "cfg": emag.CFG(3.0),
         "reuse": emag.FeatureReuse(0.5, 2, 0.3)}


OFTEN = ("query", "map", "8 bits", "apg")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in OFTEN else pytest.mark.long)
                                  for name in RULES])
def test_no_step_waits_for_the_device(monkeypatch, name):
    run(monkeypatch, "sd3", RULES[name])


@pytest.mark.parametrize("rule", [METHODS["ag"](0.99), EMAG(variant="map", jitter=0.5)], ids=["asks", "draws"])
def test_the_test_notices(monkeypatch, rule):
    with pytest.raises(RuntimeError, match="meta"):
        run(monkeypatch, "sd3", rule)


def test_the_test_notices_copies(monkeypatch):
    monkeypatch.setattr("emag.methods.weak.seg.blur_kernel", lambda n, sigma, like: torch.eye(n).to(like))
    with pytest.raises(AssertionError, match="copy"):
        run(monkeypatch, "sd3", METHODS["seg"](1.5))
