"""What docs/coverage.md says: our weak branches and diffusers' guiders on every network."""

from pathlib import Path

import diffusers
import pytest
import torch

from emag.engine.reading import read_network
from emag.families import BACKBONES
from emag.hosts.lookup import denoisers, host_of
from emag.lab.doctor import coverage, page
from emag.lab.doctor.finding import Finding
from present import ABSENT
from shell import run  # noqa: F401  (a fixture)

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
ROWS = {line.split(" | ")[0].strip("| "): line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
KNOWN = pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="the page is of diffusers 0.42.1")


@pytest.mark.slow
def test_the_page_has_every_network_once():
    assert set(BACKBONES) <= set(ROWS) and set(coverage.networks()) == set(BACKBONES) - ABSENT


@KNOWN
@pytest.mark.parametrize("network", [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("SD3Transformer2DModel", "UNet2DConditionModel")),
    *(pytest.param(name, marks=pytest.mark.long) for name in ("FluxTransformer2DModel", "SanaTransformer2DModel",
                                                              "QwenImageTransformer2DModel", "WanTransformer3DModel"))])
def test_a_row_of_the_page_is_what_is_found(network):
    found = list(coverage.coverage(names=[network]))
    assert ROWS[network] == f"| {network} | {' | '.join(page.cells(found, network))} |"


@KNOWN
def test_no_cell_of_ours_is_without_effect():
    ours = [line.split(" | ")[1:-3] for name, line in ROWS.items() if name in BACKBONES]
    assert all(cell in ("yes", "-") for row in ours for cell in row)


def test_the_table_counts_and_gathers():
    found = [Finding("emag", "A", "works", 0.1), Finding("pag", "A", "unsupported", reason="no map"),
             Finding("emag", "B", "no-effect", reason="same"), Finding("pag", "B", "unsupported", reason="no map")]
    assert page.cells(found, "A") == ["yes", "-"] and page.cells(found, "B") == ["**none**", "-"]
    assert page.totals(found) == [1, 0]
    assert page.reasons(found) == [("pag on A, B", "no map"), ("emag on B", "same")]
    assert "| **works on, of 2** | 1 | 0 |" in page.markdown(found)


def test_the_command(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(coverage, "coverage", lambda methods: iter([Finding("pag", "A", "unsupported", reason="no map")]))
    assert "no map" in run("doctor", "--matrix", "pag")[1]
    assert '"status": "unsupported"' in run("doctor", "--matrix", "--json")[1]
    assert run("doctor", "--matrix", "--markdown")[1].startswith("# Coverage")
    code, _, error = run("doctor", "--matrix", "apg")
    assert code == 2 and "not apg" in error


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - ABSENT))
def test_blocks_see_where_tokens_are_or_the_table_says_so(name):
    """A block that does not gives, for tokens in another order, what it gives for them, in that order."""
    case = coverage.networks()[name]
    pipe = case.pipe()
    network = read_network(denoisers(pipe, host_of(pipe))[0])
    block, held = network.blocks[network.depth // 2], []

    def keep(module, args, kwargs):
        held.append((args, kwargs))
        raise StopIteration

    block.module.register_forward_pre_hook(keep, with_kwargs=True)
    with pytest.raises((StopIteration, RuntimeError)):
        case.run(pipe, (8,), num_inference_steps=2)
    block.module._forward_pre_hooks.clear()
    (args, kwargs), stream = held[0], block.stack.streams[0]
    streams = block.streams(args, kwargs)
    sides, parts = block.sides(streams), block.parted(streams, 0) if block.stack.spatial else streams
    order = torch.randperm(parts[stream].shape[1], generator=torch.Generator().manual_seed(0))

    def answer(tokens):
        changed = {**parts, stream: tokens}
        given = block.with_streams(args, kwargs, block.joined(changed, sides) if sides else changed)
        found = block.returned(block.module(*given[0], **given[1]))
        return (block.parted(found, 0) if sides else found)[stream]

    with torch.no_grad():
        plain, moved = answer(parts[stream]), answer(parts[stream][:, order])
    commutes = bool((moved - plain[:, order]).abs().max() < 1e-4 * plain.abs().max())
    assert commutes == (not network.placed) or "UNet" in name  # there convolutions lie between the blocks
