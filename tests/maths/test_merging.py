"""Token merging: its matching against plain loops and the published code, and what merging and copying back keep."""

import pytest
import torch

from emag.maths import merging
from emag.maths.merging import Matching, by_cells, cosine_likeness, drawn_from, match, merge, nearness, pool_of, unmerge

ROWS, COLUMNS = 6, 8
N, C, B = ROWS * COLUMNS, 5, 3


def draws(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def features(seed=1):
    return draws(seed, B, N, C)


def some(seed=2, count=12):
    return draws(seed, B, N).argsort(1)[:, :count]


def by_hand(x, destinations, count, first=None):
    """Per row: each source's most alike destination, sources in the order in which they are folded, by plain loops."""
    found = []
    for b in range(len(x)):
        taken = destinations[b].tolist()
        pairs = []
        for i in (i for i in range(x.shape[1]) if i not in taken):
            alike = [float(torch.cosine_similarity(x[b, i], x[b, j], dim=0)) for j in taken]
            best = max(range(len(taken)), key=alike.__getitem__)
            pairs.append((first is None or not bool(first[b, i]), -alike[best], i, best))
        found.append([(i, best) for _, _, i, best in sorted(pairs)][:count])
    return found


@pytest.mark.parametrize("key", [False, True], ids=["likeness", "first"])
def test_the_matching_is_the_greedy_one(key):
    x, destinations = features(), some()
    first = draws(3, B, N) > 0.4 if key else None
    made = match(x, destinations, 20, first)
    for b, pairs in enumerate(by_hand(x, destinations, 20, first)):
        assert list(zip(made.folded[b].tolist(), made.into[b].tolist())) == pairs
        everything = [*made.kept[b].tolist(), *made.folded[b].tolist(), *destinations[b].tolist()]
        assert sorted(everything) == list(range(N))


def test_merged_tokens_are_means_and_what_comes_back_are_copies():
    x, destinations = features(), some()
    made = match(x, destinations, 20)
    merged, dropped = merge(x, made), merge(x, made, average=False)
    back = unmerge(merged, made)
    for b in range(B):
        for place, at in enumerate(destinations[b].tolist()):
            own = [at, *(f for f, into in zip(made.folded[b].tolist(), made.into[b].tolist()) if into == place)]
            mean = x[b, own].mean(0)
            torch.testing.assert_close(merged[b, made.kept.shape[1] + place], mean)
            assert torch.equal(dropped[b, made.kept.shape[1] + place], x[b, at])
            torch.testing.assert_close(back[b, own], mean.expand(len(own), -1))
        assert torch.equal(back[b, made.kept[b]], x[b, made.kept[b]])


def test_nothing_merged_comes_back_bit_for_bit():
    x = features().float()
    made = match(x, some(), 0)
    assert torch.equal(unmerge(merge(x, made), made), x)


def test_equal_tokens_come_back_as_they_were():
    x = draws(4, B, 1, C).expand(B, N, C)
    made = match(x, some(), 30)
    torch.testing.assert_close(unmerge(merge(x, made), made), x, atol=1e-14, rtol=1e-14)
    assert torch.equal(unmerge(merge(x, made, average=False), made), x)


def test_a_mean_is_kept_where_it_has_one_weight_a_token():
    """Folded tokens count as often as they were: the mean over all that come back is that of the tokens."""
    x = features()
    made = match(x, some(), 20)
    torch.testing.assert_close(unmerge(merge(x, made), made).sum(1), x.sum(1))


def test_layers_that_treat_tokens_alike_pass_through():
    """f(token) alone: merged, then f, then copied back is f of what came back."""
    x, weight = features(), draws(7, C, C)
    made = match(x, some(), 20)
    torch.testing.assert_close(unmerge(merge(x, made) @ weight, made), unmerge(merge(x, made), made) @ weight)


def test_rows_are_independent_and_joined():
    x, destinations = features(), some()
    whole = match(x, destinations, 20)
    parts = [match(x[b:b + 1], destinations[b:b + 1], 20) for b in range(B)]
    joined, twice = Matching.joined(parts), whole.repeated(2 * B)
    for name in ("kept", "folded", "into", "destinations"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
        assert torch.equal(getattr(twice, name), torch.cat([getattr(whole, name)] * 2))
    assert whole.repeated(B) is whole


def test_one_destination_in_each_cell():
    at = by_cells(draws(5, B, 7 * 9), 7, 9)  # an odd row and column are in no cell
    assert at.shape == (B, 3 * 4)
    for row in at.tolist():
        assert {(i // 9 // 2, i % 9 // 2) for i in row} == {(r, c) for r in range(3) for c in range(4)}
    best = draws(5, B, N).view(B, ROWS // 2, 2, COLUMNS // 2, 2).amax((2, 4)).flatten(1)
    assert torch.equal(draws(5, B, N).gather(1, by_cells(draws(5, B, N), ROWS, COLUMNS)), best)


def test_at_a_pool_of_what_is_left_the_least_important_are_folded():
    importance, count = draws(6, B, N).abs(), 30
    pool = pool_of(importance, N - count)
    made = match(features(), drawn_from(pool, draws(8, B, N), N // 4), count, first=~pool)
    least = importance.argsort(1)[:, :count]
    assert torch.equal(made.folded.sort(1).values, least.sort(1).values)
    assert pool.gather(1, made.destinations).all()


def test_the_most_important_token_is_never_averaged_away():
    importance = draws(6, B, N).abs()
    for size in (18, 25, 40):
        pool = pool_of(importance, size)
        made = match(features(), drawn_from(pool, draws(8, B, N), 12), N - size, first=~pool)
        best = importance.argmax(1, keepdim=True)
        assert not (made.folded == best).any()


def test_the_nearest_places_are_matched():
    grid = torch.cartesian_prod(torch.arange(float(ROWS)), torch.arange(float(COLUMNS))).expand(B, -1, -1)
    made = match(grid, some(), 20, similarity=nearness)
    for b in range(B):
        for i, into in zip(made.folded[b].tolist(), made.into[b].tolist()):
            far = (grid[b, made.destinations[b]] - grid[b, i]).norm(dim=-1)
            assert far[into] == far.min()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_tokens_of_size_zero_stay_finite(dtype):
    x = torch.zeros(B, N, C, dtype=dtype)
    x[:, ::3] = 6e4 if dtype == torch.float16 else 1e30
    made = match(x, some(), 20)
    merged = merge(x, made)
    assert merged.dtype == dtype and merged.isfinite().all() and unmerge(merged, made).isfinite().all()
    zero = torch.zeros(B, N, C, dtype=dtype)
    assert cosine_likeness(zero, some(), some(3)).abs().max() == 0


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_it_is_the_published_merge(size):
    published = pytest.importorskip("tomesd", reason="the published token merging is not installed").merge
    rows, columns = size
    x, values = draws(1, B, rows * columns, C), draws(2, B, rows * columns, C)
    folded = int(0.5 * rows * columns)
    fold, unfold = published.bipartite_soft_matching_random2d(x, columns, rows, 2, 2, folded, no_rand=True)
    corner = torch.zeros(rows, columns, dtype=torch.float64)
    corner[::2, ::2] = 1  # without draws theirs takes the top left of each cell
    made = match(x, by_cells(corner.flatten().expand(B, -1), rows, columns), folded)
    torch.testing.assert_close(unmerge(merge(values, made), made), unfold(fold(values)), atol=1e-12, rtol=0)
    assert merging.RATIO == 0.75  # theirs folds no more than all sources
