"""The GPU suite on a CPU: every part runs on small shapes, counts are the plan's, kills and failures lose nothing."""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from emag.engine.reading import read_network
from emag.methods.emag import stored_map

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import gpu_suite
from gpu import lines as gpu_lines
from gpu import measure as gpu_measure
from gpu import report as gpu_report
from gpu.lines import EVERY, FUSED, MAP, QUERY
from gpu.measure import Bench
from timed.shapes import SHAPES, network

TINY, STEPS = SHAPES["tiny"], 6
PAG_STOCK, SLG_STOCK = gpu_lines.STOCK.values()


def suite(path, **settings):
    """One call on the small SD3; what it left in the file."""
    gpu_suite.main(path, **{"shapes": "tiny", "parts": "speed", "batch": "1", "compiled": False, "steps": STEPS,
                            "repeats": 1, "budget": 600.0, "device": "cpu", "retry": False, "backend": "eager", **settings})
    return json.loads(path.read_text())


@contextmanager
def watched(monkeypatch, fail=None):
    """Names of the lines timed; `fail(name)` may raise in their place."""
    seen, timed = [], gpu_measure.timed

    def spy(bench, line, batch, steps):
        if fail:
            fail(line.name)
        seen.append(line.name)
        return timed(bench, line, batch, steps)

    with monkeypatch.context() as patched:
        patched.setattr(gpu_measure, "timed", spy)
        yield seen


@pytest.fixture(scope="module")
def bench():
    return Bench(TINY, "cpu", torch.float32)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return suite(tmp_path_factory.mktemp("gpu") / "all.json", parts="speed,memory,storage,sync,profile")


@pytest.mark.parametrize(("name", "billions", "depth"), [
    ("sd3", 2.03, 24), ("sd35", 2.24, 24), ("flux", 11.90, 57), ("dit256", 0.75, 28), ("dit512", 0.75, 28),
    ("wan", 1.42, 30)])
def test_shapes_are_the_published_ones(name, billions, depth):
    """diffusers' DiT has a class embedding in each block, 675M without them."""
    made = network(SHAPES[name], "meta", torch.bfloat16)
    assert sum(p.numel() for p in made.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)
    assert read_network(made).depth == SHAPES[name].depth == depth
    embedded = sum(p.numel() for n, p in made.named_parameters() if ".emb." in n)
    assert "dit" not in name or sum(p.numel() for p in made.parameters()) - embedded == pytest.approx(675e6, rel=0.01)


@pytest.mark.slow
def test_every_line_is_measured_and_evaluates_what_was_planned(results):
    lines = {key.rsplit("/", 1)[1]: line for key, line in results["lines"].items()}
    assert lines.keys() == gpu_lines.lines(TINY, ("speed", "storage")).keys() and not results["left"]
    assert not any("failed" in line for line in lines.values())
    assert all(line["finite"] and line["repeats"][0]["seconds"] > 0 for line in lines.values())
    guided = [line for line in lines.values() if "planned" in line]
    assert len(guided) == 12 and all(line["evaluations"] == line["planned"] > line["clean"] for line in guided)
    assert {line["clean"] for line in guided} == {lines["CFG"]["evaluations"]} == {STEPS * 2 * TINY.depth}
    assert lines[EVERY]["evaluations"] <= lines[QUERY]["evaluations"] == lines[MAP]["evaluations"]


@pytest.mark.slow
def test_the_summary_holds_ratios_targets_and_picks(results):
    group = results["summary"]["groups"]["tiny/eager/1"]
    for name, line in group.items():
        run = results["lines"][f"tiny/eager/1/{name}"]
        plain = results["lines"]["tiny/eager/1/CFG"]
        assert line["ratio"] == pytest.approx(run["repeats"][0]["seconds"] / plain["repeats"][0]["seconds"])
        assert line["floor"] == run["evaluations"] / plain["evaluations"]
    assert [one["measured"] for one in results["summary"]["targets"]] == [None] * 7  # of another shape
    assert results["summary"]["picks"]["tiny/eager/1/EMAG map, float32"] == 1
    assert results["profile"].keys() == {"tiny/CFG", f"tiny/{QUERY}", f"tiny/{MAP}"}
    assert all(line["busy"] > 0 for line in results["profile"].values())


@pytest.mark.parametrize("name", ["CFG", QUERY, EVERY, "SLG", PAG_STOCK, SLG_STOCK])
def test_evaluations_are_counted_blocks(name, bench):
    """Rows of all calls of blocks, counted from outside."""
    rows, line = [], gpu_lines.lines(TINY, ("speed",))[name]
    counting = [block.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True)
        for block in read_network(bench.pipe.transformer).blocks]
    _, counts = gpu_measure.timed(bench, line, 1, 8)
    for hook in counting:
        hook.remove()
    assert sum(rows) == counts["evaluations"]


@pytest.mark.parametrize("name", ["tiny", "tiny-flux", "tiny-dit", "tiny-wan"])
def test_all_families_run_in_half_precision(name):
    one, every = Bench(SHAPES[name], "cpu", torch.bfloat16), gpu_lines.lines(SHAPES[name], ("speed",))
    for line in (SHAPES[name].plain, QUERY, MAP, "PAG"):
        _, counts = gpu_measure.timed(one, every[line], 2, 4)
        assert counts["finite"] and counts["evaluations"] == counts.get("planned", counts["evaluations"])
    assert bool(every[PAG_STOCK].refused) == (name != "tiny")


@pytest.mark.slow
def test_what_was_killed_is_gone_on_with(tmp_path, monkeypatch):
    """Nothing is measured twice but the plain line, beside which the missing ones are timed."""
    path, stop = tmp_path / "out.json", KeyboardInterrupt()

    def kill(name):
        if name == EVERY:
            raise stop

    with pytest.raises(KeyboardInterrupt), watched(monkeypatch, kill) as before:
        suite(path)
    assert before == ["CFG", QUERY, MAP]
    assert len(json.loads(path.read_text())["lines"]) == 3
    with watched(monkeypatch) as after:
        held = suite(path)
    assert after[:2] == ["CFG", EVERY] and not {QUERY, MAP} & {*after}
    assert [len(line["repeats"]) for line in held["lines"].values()] == [2] + [1] * (len(held["lines"]) - 1)
    with watched(monkeypatch) as again:
        suite(path)
    assert again == []
    with pytest.raises(gpu_suite.typer.BadParameter, match="steps"):
        suite(path, steps=7)


@pytest.mark.slow
def test_a_failing_line_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    def fail(name):
        if name == QUERY:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    with watched(monkeypatch, fail) as seen:
        held = suite(tmp_path / "out.json")
    line = held["lines"][f"tiny/eager/1/{QUERY}"]
    assert line["failed"] == "OutOfMemoryError: CUDA out of memory." and MAP in seen and SLG_STOCK in seen
    with watched(monkeypatch) as seen:
        suite(tmp_path / "out.json")
    assert seen == []
    with watched(monkeypatch) as seen:
        held = suite(tmp_path / "out.json", retry=True)
    assert seen == ["CFG", QUERY] and "failed" not in held["lines"][f"tiny/eager/1/{QUERY}"]


@pytest.mark.slow
def test_nothing_is_begun_on_a_broken_device_or_after_the_time(tmp_path, monkeypatch):
    def fail(name):
        if name == QUERY:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with watched(monkeypatch, fail) as seen:
        held = suite(tmp_path / "a.json", parts="speed,sync")
    assert seen == ["CFG"] and [text.split(":")[0] for text in held["left"]] == ["tiny/eager/1", "sync of tiny"]
    with watched(monkeypatch) as seen:
        held = suite(tmp_path / "b.json", budget=-1.0)
    assert seen == [] and held["left"] == ["tiny/eager/1: the time was used up"]


def test_synchronisation_is_looked_for_inside_the_network_alone(bench, monkeypatch):
    modes, line = [], gpu_lines.lines(TINY, ("speed",))[QUERY]
    monkeypatch.setattr(gpu_measure, "debug", lambda device, mode: modes.append(mode))
    assert gpu_measure.synchronises(bench, line, STEPS) == {"synchronises": None}
    assert modes == ["error", "default"] * STEPS and "__call__" not in vars(type(bench.pipe.transformer))

    advance = stored_map.update_stored

    def wait(*args):
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        return advance(*args)

    with patch.object(stored_map, "update_stored", wait):
        found = gpu_measure.synchronises(bench, line, STEPS)
    assert found["synchronises"] == "called a synchronizing CUDA operation" and "average.py" in found["at"][-1]
    assert modes[-1] == "default" and gpu_measure.timed(bench, line, 1, STEPS)[1]["finite"]


def test_traffic_is_that_of_the_maps_a_run_holds(bench):
    """Bytes of a run's own averages; each read and written once a watched step, one read once an applied step."""
    held, empty, line = [], stored_map.empty, gpu_lines.lines(TINY, ("storage",))["EMAG map, scaled8"]
    with patch.object(stored_map, "empty", lambda *args: held.append(empty(*args)) or held[-1]):
        stats = gpu_lines.run(bench.pipe, line, gpu_measure.Call(TINY, 1, "cpu", torch.float32).arguments(8)).stats
    sizes = {one.codes.numel() + 4 * one.peaks.numel() for one in held}
    found = gpu_measure.traffic(bench, 8, ("scaled8",))["formats"]["scaled8"]
    applied = sum(pick is not None for pick in stats.picks)
    assert sizes == {found["map"]} and len(held) == found["candidates"] and applied == found["applied"]
    watched = {one.updates for one in held}
    assert found["bytes"] == found["map"] * (2 * watched.pop() * len(held) + applied) and not watched


def test_ratios_are_formed_within_a_call():
    """A later call on a slower machine changes no ratio."""
    def line(*pairs, **more):
        repeats = [{"seconds": s, "peak": 1e9 * s, "session": session} for session, s in pairs]
        return {"repeats": repeats, "evaluations": 100, "finite": True, **more}

    data = {"lines": {"sd3/eager/1/CFG": line((0, 1.0), (0, 3.0), (1, 20.0)),
                      f"sd3/eager/1/{QUERY}": line((0, 2.5)), f"sd3/eager/1/{MAP}": line((1, 25.0))}, "storage": {}}
    found = gpu_report.summary(data)
    ratios = {name: one["ratio"] for name, one in found["groups"]["sd3/eager/1"].items()}
    assert ratios == {"CFG": 1.0, QUERY: 1.25, MAP: 1.25}
    reached = {(one["line"], one["what"]): one["reached"] for one in found["targets"]}
    unknown = {(FUSED, "time over CFG"): None, (FUSED, "GB over CFG"): None, (EVERY, "time over CFG"): None}
    assert reached == {(QUERY, "time over CFG"): True, (QUERY, "GB over CFG"): False, (MAP, "time over CFG"): True,
                       (MAP, "GB over CFG"): False, **unknown}


@pytest.mark.slow
def test_compiled_blocks_are_measured():
    small = replace(SHAPES["tiny-flux"], config={**SHAPES["tiny-flux"].config, "num_layers": 1, "num_single_layers": 2})
    one = Bench(small, "cpu", torch.float32, compiled=True, backend="eager")
    lines = gpu_lines.lines(small, ("speed",), wide=True)
    assert gpu_measure.warm_up(one, lines["plain"], 1, 3)["graphs"] > 0
    gpu_measure.warm_up(one, lines[QUERY], 1, 4)
    assert gpu_measure.warm_up(one, lines[QUERY], 1, 4)["graphs"] == 0
    assert gpu_measure.timed(one, lines[QUERY], 1, 4)[1]["finite"]
    torch._dynamo.reset()
