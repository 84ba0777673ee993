"""Beside TorchCompile: the compiled network under several guidances in turn is the one that is not compiled.

Graphs are captured by Dynamo and run as they are: what a guidance meets is the capture and its guards, whatever compiles.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import emag
from emag.hosts.comfy.patch import carried, patched
from smallcomfy import SMALL, build, sample

compiling = pytest.importorskip("comfy_api.torch_helpers", reason="this tree has no TorchCompile")
WINDOW = emag.Window.progress(0, 0.2, 0.8)
EMAG = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7)
RULES = {"emag": (EMAG,), "slg": (emag.SLG(1.5, layers=(2,)),), "pag, apg": (emag.PAG(1.5, layers=(1,)), emag.APG(4.0)),
         "emag-map": (emag.EMAG(1.5, "map", layers=(2, 3), window=WINDOW, beta=0.7),)}
SMALLEST = SMALL["sd3"]
GRAPHS: list[torch.fx.GraphModule] = []


def captured(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    """A backend that counts what it is given and runs it as it is."""
    GRAPHS.append(graph)
    return graph.forward


def unguarded(guards: Any) -> list[bool]:
    """As ComfyUI's node: what hangs on transformer_options is not looked at again."""
    return ["transformer_options" not in guard.name for guard in guards]


def put_on(model: Any) -> None:
    """What the node puts on a model, with our backend."""
    compiling.set_torch_compile_wrapper(model=model, backend=captured, options={"guard_filter_fn": unguarded})


@pytest.fixture(scope="module")
def model() -> Any:
    return build(SMALLEST)


@pytest.fixture(scope="module")
def compiled(model: Any) -> Iterator[Any]:
    torch._dynamo.reset()
    clone = model.clone()
    put_on(clone)
    yield clone
    torch._dynamo.reset()


def test_it_is_compiled_and_nothing_stays(model: Any, compiled: Any) -> None:
    """A plain run, guided ones, a plain run again, all of one compiled network."""
    plain = sample(model, SMALLEST)
    assert torch.equal(sample(compiled, SMALLEST), plain)
    assert GRAPHS
    for rules in RULES.values():
        assert torch.equal(sample(patched(compiled, rules), SMALLEST), sample(patched(model, rules), SMALLEST))
    assert torch.equal(sample(compiled, SMALLEST), plain)
    assert torch.equal(sample(patched(compiled, (emag.EMAG(1.0, layers=(1,), window=WINDOW),)), SMALLEST), plain)


def test_a_second_run_compiles_nothing(compiled: Any) -> None:
    """Nor does the node in the other order."""
    guided = patched(compiled, (EMAG,))
    first, count = sample(guided, SMALLEST), len(GRAPHS)
    assert torch.equal(sample(guided, SMALLEST), first)
    assert len(GRAPHS) == count


def test_either_order(model: Any, compiled: Any) -> None:
    guided = patched(model, (EMAG,))
    put_on(guided)
    assert torch.equal(sample(guided, SMALLEST), sample(patched(compiled, (EMAG,)), SMALLEST))
    assert carried(guided).latest.report.stats.evaluations == 6 * 2 * 4 + 3 * 3


def stock(model: Any, backend: str) -> Any:
    """What ComfyUI's own node makes of a model."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    out = TorchCompileModel.execute(model, backend)
    return out.args[0] if hasattr(out, "args") else out[0]


def test_the_stock_node(model: Any) -> None:
    """Before ours and after it, graphs run as they were captured: what is not compiled, bit for bit."""
    torch._dynamo.reset()
    compiled = stock(model, "eager")
    assert torch.equal(sample(compiled, SMALLEST), sample(model, SMALLEST))
    expected = sample(patched(model, (EMAG,)), SMALLEST)
    assert torch.equal(sample(patched(compiled, (EMAG,)), SMALLEST), expected)
    assert torch.equal(sample(stock(patched(model, (EMAG,)), "eager"), SMALLEST), expected)


@pytest.mark.long
def test_the_stock_node_as_it_comes(model: Any) -> None:
    """Inductor's kernels round otherwise, which a small random network amplifies; the effect is above 0.1."""
    torch._dynamo.reset()
    guided = sample(patched(stock(model, "inductor"), (EMAG,)), SMALLEST)
    expected = sample(patched(model, (EMAG,)), SMALLEST)
    assert float((guided - expected).abs().max() / expected.abs().max()) < 1e-2
    assert float((guided - sample(model, SMALLEST)).abs().max() / expected.abs().max()) > 1e-1
