"""S-CFG: token maps, regions and the rate against plain loops."""

import pytest
import torch

from emag.errors import BadValue
from emag.maths.attention import Attention
from emag.methods.combining.s_cfg import foreground, rates, regions
from emag.methods.common.token_maps import GAUSSIAN, Cells, token_maps
from semantic import TEXT, call, close, plain_maps, plain_rate

# cells and maps


@pytest.mark.parametrize(("grid", "side", "shape"), [
    ((4, 4), 1, (4, 4)), ((4, 8), 1, (4, 8)), ((32, 32), 2, (16, 16)), ((64, 48), 4, (16, 12)), ((17, 10), 2, (9, 5)),
    ((3, 33), 3, (1, 11))])
@pytest.mark.parametrize("zoom", [1, 2])
def test_cells_cover_the_image_once(grid, side, shape, zoom):
    cells = Cells(*grid)
    rows, columns = cells.members(zoom)
    assert cells.side == side and (len(rows), len(columns)) == (zoom * grid[0], zoom * grid[1])
    assert (rows.shape[1], columns.shape[1]) == shape and max(shape) <= 16
    for at in (rows, columns):
        assert torch.equal(at.sum(1), torch.ones(len(at))) and bool((at.argmax(1).diff() >= 0).all())
        assert bool((at.sum(0)[:-1] == side * zoom).all()) and 0 < at.sum(0)[-1] <= side * zoom


@pytest.mark.parametrize("first", [0, TEXT, 2])
@pytest.mark.parametrize(("rows", "columns", "side"), [(4, 4, 1), (3, 5, 1), (17, 4, 2), (20, 34, 3)])
def test_token_maps_are_those_of_plain_loops(rows, columns, side, first, monkeypatch):
    monkeypatch.setattr("emag.maths.attention.CHUNK_BYTES", 2**16)
    made = call(rows, columns, first=first)
    maps = token_maps(made, Cells(rows, columns))
    close(maps.double(), plain_maps(made, rows, columns, side), atol=1e-5, rtol=1e-4)
    close(maps.sum(1), torch.ones_like(maps[:, 0]), atol=1e-4, rtol=1e-4)  # S and C are shares, and blur keeps constants


def test_masked_text_has_an_empty_map():
    made = call(4, 4)
    keep = torch.ones(1, 1, 1, 16 + TEXT, dtype=torch.bool)
    keep[..., -2:] = False
    maps = token_maps(Attention(made.q, made.k, made.v, made.image, keep), Cells(4, 4))
    assert bool((maps[:, -2:] == 0).all()) and bool((maps[:, :-2] > 0).all())
    assert foreground([maps], 0).any() and (regions([maps]) < TEXT - 2).all()


def test_the_gaussian_is_that_of_the_text():
    close(torch.tensor(GAUSSIAN), torch.tensor([0.10650698, 0.78698604, 0.10650698]))


# regions, foreground, rate


def test_regions_compare_maps_by_their_means_and_average_blocks():
    faint, strong = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    faint[:, 0], faint[:, 1] = torch.tensor([[8.0, 8], [8, 0]]), torch.tensor([[0.0, 0], [0, 0.1]])
    assert regions([faint]).tolist() == [[[0, 0], [0, 1]]] * 2
    assert regions([strong, faint]).tolist() == [[[0, 0], [0, 1]]] * 2
    flipped = faint.clone()
    flipped[:, 0], flipped[:, 1] = torch.tensor([[0.0, 8], [8, 8]]), torch.tensor([[0.1, 0.0], [0, 0]])
    assert regions([flipped] * 5 + [faint]).tolist() == [[[1, 0], [0, 0]]] * 2


@pytest.mark.parametrize("bos", [0, 2, -1])
def test_foreground_is_where_the_words_outweigh_the_start(bos):
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    others = maps.sum(1) - maps[:, bos]
    expected = others / others.mean((1, 2), keepdim=True) > maps[:, bos] / maps[:, bos].mean((1, 2), keepdim=True)
    assert torch.equal(foreground([maps], bos), expected)
    assert 0 < expected.sum() < 32


@pytest.mark.parametrize("bos", [3, -4])
def test_a_start_token_that_is_not_there_is_refused(bos):
    with pytest.raises(BadValue, match="3 text tokens"):
        foreground([torch.ones(2, 3, 4, 4)], bos)


def scene(seed=0, batch=3, places=36):
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(batch, places, dtype=torch.float64, generator=generator) + 0.1
    labels = torch.randint(0, 4, (batch, places), generator=generator)
    return size, torch.ones(places).double(), labels, torch.rand(batch, places, generator=generator) > 0.6


def test_the_rate_evens_out_the_regions():
    size, count, labels, inside = scene()
    rate = rates(size, count, labels, inside)
    for n, r, label, fore in zip(size, rate, labels, inside):
        for token in label.unique():
            close((7.5 * r * n)[label == token].mean(), 7.5 * n[fore].mean())
            assert r[label == token].unique().numel() == 1
    close(rate, plain_rate(size, labels, inside))


def test_the_rate_of_pooled_places_is_that_of_their_pixels():
    size, _, labels, inside = scene()
    count = torch.tensor([1.0, 4.0, 2.0] * 12).double()
    repeats = count.long()
    fine = rates(*(t.repeat_interleave(repeats, 1) for t in (size,)), torch.ones(int(count.sum())).double(),
                 labels.repeat_interleave(repeats, 1), inside.repeat_interleave(repeats, 1))
    close(rates(size * count, count, labels, inside).repeat_interleave(repeats, 1), fine)


@pytest.mark.parametrize("k", [0.01, 3.0, 1e4])
def test_the_rate_does_not_know_the_size_of_the_difference(k):
    size, *rest = scene()
    close(rates(k * size, *rest), rates(size, *rest))


def test_the_rate_is_1_where_nothing_tells_regions_apart():
    size, count, labels, inside = scene()
    ones = torch.ones_like(size)
    close(rates(ones * 3, count, labels, inside), ones)
    close(rates(size, count, labels, torch.zeros_like(inside)), ones)
    close(rates(0 * size, count, labels, inside), ones)
    close(rates(size, count, torch.zeros_like(labels), torch.ones_like(inside)), ones)
    still = labels == 2
    rate = rates(size * ~still, count, labels, inside)
    assert bool((rate[still] == 1).all()) and bool((rate[~still] != 1).all())
