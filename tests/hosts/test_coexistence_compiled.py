"""Guidance of compiled networks."""

import pytest
import torch

import emag
from coexisting import EMAG, at_step, close, guided, in_thread, rules_for, sharing
from spy import changes, snapshot
from tiny import CASES, sd3

# torch.compile


class Graphs:
    """A compile backend that counts what it is given and runs it as it is."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(pipe, backend):
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


def in_place(pipe, backend):
    pipe.transformer.compile(backend=backend)


def forward_only(pipe, backend):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=backend)


def repeated_blocks(pipe, backend):
    pipe.transformer.compile_repeated_blocks(backend=backend)


def each_block(pipe, backend):
    for stack in ("transformer_blocks", "single_transformer_blocks"):
        blocks = getattr(pipe.transformer, stack, ())
        for i in range(len(blocks)):
            blocks[i] = torch.compile(blocks[i], backend=backend)


COMPILERS = {"whole": whole, "in place": in_place, "forward": forward_only, "repeated blocks": repeated_blocks,
             "each block": each_block}


def compiled_case(case, compiler, backend, warm=True):
    """A plain call, then two rounds of two guided calls and a plain one: results, and graphs made up to each."""
    pipe, graphs = case.pipe(layers=3 if "flux" not in case.name and case.name != "true-cfg" else 2), []
    COMPILERS[compiler](pipe, backend)
    results = []

    def call():
        results.append(case.run(pipe, num_inference_steps=4))
        graphs.append(backend.count)

    if warm:
        call()
    for _ in range(2):
        with emag.guide(pipe, *rules_for(case)) as run:
            call()
            call()
        call()
    return results, graphs, run.stats


FAST = (("sd3", "whole"), ("flux", "repeated blocks"))
COMPILED = [pytest.param(name, compiler, id=f"{name}-{compiler}",
                         marks=pytest.mark.slow if (name, compiler) in FAST else pytest.mark.long)
            for name, compiler in (*FAST, ("sd3", "forward"), ("sd3", "each block"), ("pixart", "whole"), ("flux", "whole"),
                                   ("true-cfg", "in place"))]


@pytest.mark.parametrize(("name", "compiler"), COMPILED)
def test_compiled_networks(name, compiler, fresh_dynamo):
    """Same images, same effect, and a bounded number of graphs: none are made once a guided and a plain call were."""
    case, backend = CASES[name], Graphs()
    results, graphs, compiled = compiled_case(case, compiler, backend)
    pipe = case.pipe(layers=2 if name in ("flux", "true-cfg") else 3)
    plain, (expected, stats) = case.run(pipe, num_inference_steps=4), guided(case, pipe, num_inference_steps=4)
    tolerance = 5e-4 if name == "pixart" else 1e-4
    assert all(close(results[i], plain, tolerance) for i in (0, 3, 6))
    assert all(close(results[i], expected, tolerance) for i in (1, 2, 4, 5))
    assert compiled.evaluations == stats.evaluations and compiled.picks == stats.picks
    assert compiled.effect == pytest.approx(stats.effect, rel=1e-2)
    assert 0 < graphs[0] < graphs[1] == graphs[2]
    assert graphs[2] - graphs[0] <= 30 and graphs[3] - graphs[2] <= 2
    assert graphs[3:] == [graphs[3]] * 4, "a second round compiled again"


@pytest.mark.slow
def test_one_graph_for_a_whole_block_is_refused(fresh_dynamo):
    case, pipe = CASES["flux"], CASES["flux"].pipe(layers=1, single=2)
    few = {"num_inference_steps": 3, "seeds": (8,)}
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    plain = case.run(pipe, **few)
    before = snapshot(pipe)
    with pytest.raises(emag.Unsupported, match="fullgraph"):
        guided(case, pipe, EMAG(layers=(1,)), **few)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe, **few), plain)


@pytest.mark.slow
def test_compiled_for_the_first_time_under_guidance(fresh_dynamo):
    case, backend = CASES["sd3"], Graphs()
    expected = guided(case, sd3(layers=3), num_inference_steps=4)[0]
    results, graphs, _ = compiled_case(case, "whole", backend, warm=False)
    assert close(results[0], expected, 1e-4)
    assert graphs[1] == graphs[0] and graphs[3:] == [graphs[3]] * 3


@pytest.mark.long
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_with_real_backends(backend, fresh_dynamo):
    case, pipe = CASES["flux"], CASES["flux"].pipe(layers=1, single=2)
    few = {"num_inference_steps": 3, "seeds": (8,)}
    expected = guided(case, pipe, EMAG(layers=(1,)), **few)[0]
    pipe.transformer.compile_repeated_blocks(backend=backend)
    try:
        case.run(pipe, **few)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"inductor does not work here: {error}")
    out, stats = guided(case, pipe, EMAG(layers=(1,)), **few)
    assert close(out, expected, 1e-3) and stats.effect > 0


@pytest.mark.slow
def test_a_plain_module_behind_a_compiled_one_is_guarded(fresh_dynamo):
    """A second pipeline that holds the plain module cannot run on a network whose compiled wrapper is in use."""
    case, pipe, errors = CASES["sd3"], sd3(layers=3), []
    other = sharing(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    expected = guided(case, pipe, EMAG())[0]

    def intrude():
        try:
            case.run(other)
        except emag.Busy as error:
            errors.append(error)

    for action in (intrude, in_thread(intrude)):
        with at_step(pipe, 4, action):
            assert torch.equal(guided(case, pipe, EMAG())[0], expected)
    assert len(errors) == 2
