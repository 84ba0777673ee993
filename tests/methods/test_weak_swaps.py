"""Self-swap guidance: who changes places, and that the others stay."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.weak import ssg
from emag.methods.weak.ssg import SSG, Swapped, SwappedState, swapped
from spy import Counter, attention_of
from tiny import CASES, noise
from weak import ORDERS, call_of, sdpa_of

close = torch.testing.assert_close


def order(rows, count, seed=0):
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)).argsort(1)


@pytest.mark.parametrize(("count", "share", "moved"), [(16, 0.25, 4), (16, 0.01, 2), (15, 1.0, 14), (2, 0.1, 2)])
def test_so_many_change_places_with_a_partner(count, share, moved):
    things = noise(2, 3, count, 8)
    found = swapped(things, share, order(3, count))
    off = (found != things).any(2)
    assert off.sum(1).tolist() == [moved] * 3
    for row in range(3):
        # each that moved is where its partner was: doing it to the numbers of the places twice changes nothing
        at = [int((things[row] == one).all(1).nonzero()) for one in found[row]]
        assert sorted(at) == list(range(count)) and [at[i] for i in at] == list(range(count))


def test_the_least_similar_of_the_drawn_pairs_swap():
    things, places = noise(2, 1, 12, 8), order(1, 12)
    found = swapped(things, 2 / 12, places)  # one pair
    pairs = list(zip(places[0, :6].tolist(), places[0, 6:].tolist()))
    alike = [torch.cosine_similarity(things[0, a], things[0, b], dim=0).item() for a, b in pairs]
    a, b = pairs[alike.index(min(alike))]
    assert (found != things).any(2).nonzero()[:, 1].tolist() == sorted((a, b))
    assert torch.equal(found[0, a], things[0, b]) and torch.equal(found[0, b], things[0, a])


def state(tokens=0.5, channels=0.0, rows=2):
    return SwappedState(Swapped((1,), tokens, channels), Streams.of(noise(1, rows, 4, 8, 8)))


@pytest.mark.parametrize(("tokens", "channels"), [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("kind", ORDERS)
def test_the_attention_itself_is_kept(kind, tokens, channels):
    """Whole tokens move, or whole channels: the same numbers in other places; text stays where it is."""
    call = call_of(kind)
    live, found = sdpa_of(call)(call.q), state(tokens, channels).perturb(1, call, sdpa_of(call))
    inside = torch.zeros(live.shape[2], dtype=torch.bool)
    inside[call.image] = True
    assert torch.equal(found[:, :, ~inside], live[:, :, ~inside])
    here, there = (out[:, :, call.image].transpose(1, 2).flatten(2) for out in (live, found))
    assert not torch.equal(here, there)
    close(here.flatten(1).sort(1).values, there.flatten(1).sort(1).values)
    if not channels:  # rows as they were
        assert all(any(torch.equal(one, other) for other in here[0]) for one in there[0])
    if not tokens:
        assert all(any(torch.equal(one, other) for other in here[0].T) for one in there[0].T)


def test_partners_are_drawn_per_sample_block_and_step():
    call, one = call_of("image"), state()
    sdpa = sdpa_of(call)
    first = one.perturb(1, call, sdpa)
    assert torch.equal(one.perturb(1, call, sdpa), first) and not torch.equal(one.perturb(2, call, sdpa), first)
    alone = SwappedState(one.spec, Streams(one.streams.keys[1:]))
    close(alone.perturb(1, call.rows(slice(1, 2)), lambda q: sdpa(call.q)[1:]), first[1:])
    one.streams.next_step()
    assert not torch.equal(one.perturb(1, call, sdpa), first)


@pytest.mark.parametrize("case", ["sd3", "dit", "flux"])
def test_a_run_pushes_away_from_swapped_tokens(case):
    """Also where positions are known before the first block alone: the residual stream stays, unlike in a shuffle."""
    plain = CASES[case].run(CASES[case].pipe())
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, SSG(2.0, layers=(1,))) as run:
        found = CASES[case].run(pipe)
    assert run.stats.evaluations == run.stats.planned and (found - plain).abs().max() > 1e-3 * plain.abs().max()
    assert len(set(counter.blocks.values())) > 1  # the weak passes begin at block 1


def test_swaps_that_change_nothing_are_told(monkeypatch):
    monkeypatch.setattr(ssg, "swapped", lambda things, share, order: things)
    pipe = CASES["sd3"].pipe()
    with pytest.raises(NoEffect, match="never differed"), emag.guide(pipe, SSG(2.0, layers=(1,))):
        CASES["sd3"].run(pipe)


def test_what_it_refuses():
    for wrong in ({"tokens": -0.1}, {"tokens": 1.1}, {"channels": 2.0}):
        with pytest.raises(BadValue, match="ssg tokens and channels are shares"):
            SSG(2.0, (1,), **wrong)
    assert SSG(1.0).neutral and SSG(2.0, (1,), 0.0, 0.0).neutral and not SSG(2.0, (1,), 0.0).neutral
    q = noise(2, 2, 2, 1, 4)
    with pytest.raises(Unsupported, match="this network has one"):
        state().look(1, Attention(q, q, q, slice(0, 1)))
    state(0.0, 0.5).look(1, Attention(q, q, q, slice(0, 1)))
