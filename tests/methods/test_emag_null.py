"""EMAG inside the unconditional rows: CFG away from a weak unconditional prediction, in CFG's own pass."""

import pytest
import torch

import emag
from cases import KINDS
from emag.core import Rows
from emag.errors import BadValue, NoEffect
from emag.maths.attention import Attention
from emag.methods.emag.in_null import NullTracker
from reference import tensors
from tiny import CASES

close = torch.testing.assert_close
WINDOW = emag.Window.progress(0, 0.2, 0.8)
BOTH = pytest.mark.parametrize("name", [name for name in KINDS if name in ("sd3", "dit", "pixart", "true-cfg")])
FOLDED = {"rows": "all", "weak_row": "uncond", "accumulate_in": "perturbed", "every_step": True, "stat_lag": 1,
          "resume": False}


def drawn(name, *rules, **call):
    case = CASES[name]
    pipe = case.pipe()
    with emag.guide(pipe, *rules) as run:
        image = case.run(pipe, **call)
    return image, run.stats


@pytest.mark.parametrize("variant", ["query", "map"])
@pytest.mark.parametrize("name", ["sd3", "dit", "pixart"])
def test_is_the_push_away_from_the_weak_unconditional_row(name, variant):
    """u' + s (c - u') = c + (s - 1) (c - u'): EMAG of a whole further pass, read in its unconditional row."""
    folded, stats = drawn(name, emag.EMAGNull(1.0, variant, (2,), 0.9, WINDOW, statistic="mae"), emag.CFG(2.5))
    whole, further = drawn(name, emag.EMAG(2.5, variant=variant, layers=(2,), beta=0.9, window=WINDOW, compat=FOLDED,
                                           statistic="mae"), emag.CFG(1.0))
    plain, _ = drawn(name, emag.CFG(2.5))
    assert (folded - plain).abs().max() > 1e-4
    close(folded, whole, atol=1e-5, rtol=2e-3)
    assert stats.evaluations * 2 == further.evaluations  # what the same costs in a pass of its own


@BOTH
def test_costs_nothing_beyond_cfg(name):
    _, plain = drawn(name, emag.CFG(2.5))
    _, guided = drawn(name, emag.EMAGNull(layers=(1, 2), window=WINDOW), emag.CFG(2.5))
    assert guided.evaluations == guided.planned == plain.evaluations


def calls(steps, rows=4):
    """Live attention of a block over `steps` steps: two conditional rows, then two unconditional ones."""
    for at in range(steps):
        q, k, v = tensors(70 + at, 3, rows, 2, 5, 3)
        yield Attention(q, k, v, image=slice(0, 4), scale=0.5)


def test_each_row_is_replaced_by_its_own_average_and_the_rest_stays():
    spec = emag.EMAGNull(0.7, layers=(1,), beta=0.6, window=emag.Window.progress(0, 0.5, 1)).perturbation
    state, rows = NullTracker(spec, ("watch", "watch", "apply", "apply"), None), Rows(slice(0, 2), slice(2, 4), 4)
    average = None
    for at, call in enumerate(calls(4)):
        state.begin(at)
        live = call.q[2:, :, :4]
        average = live if average is None else 0.6 * average + 0.4 * live
        q = call.q.clone()
        if at >= 2:
            q[2:, :, :4] = 0.3 * live + 0.7 * average
        asked = []

        def attend(given, call=call, asked=asked):
            asked.append(given)
            return torch.softmax(given @ call.k.mT * 0.5, -1) @ call.v

        close(state.strengthen(1, call, attend, rows), torch.softmax(q @ call.k.mT * 0.5, -1) @ call.v)
        assert len(asked) == 1  # the live attention is computed once
    assert bool(state.differed)


def test_picks_by_the_step_before():
    spec = emag.EMAGNull(1.0, layers=(1, 2), beta=0.5, window=emag.Window.progress(0, 0.5, 1), statistic="mae").perturbation
    state, rows = NullTracker(spec, ("watch", "watch", "apply"), None), Rows.all_uncond(2)
    for at in range(3):
        state.begin(at)
        for block in (1, 2):
            q, k, v = tensors(90 + at, 3, 2, 2, 5, 3)
            still = block == 2 - at // 2  # in the first two steps block 2 stands still, in the last block 1
            call = Attention(q * (1.0 if not still else 0.0), k, v, image=slice(0, 4), scale=0.5)
            state.strengthen(block, call, lambda q: q, rows)
    assert state.picks[2].tolist() == [0, 0]


def test_conditional_rows_alone_are_left_as_they_are():
    spec = emag.EMAGNull(layers=(1,), window=WINDOW).perturbation
    state, call = NullTracker(spec, ("watch", "apply"), None), next(calls(1))
    state.begin(0)
    assert state.strengthen(1, call, lambda q: q, Rows.all_cond(4)) is call.q and not state.averages


def test_refused_without_unconditional_rows_and_for_values_out_of_range():
    with pytest.raises((BadValue, NoEffect), match="unconditional"):
        drawn("sd3", emag.EMAGNull(layers=(1,), window=WINDOW), guidance_scale=1.0)
    with pytest.raises(BadValue, match="strength must lie in"):
        emag.EMAGNull(1.5)
    with pytest.raises(BadValue, match="variant='query'"):
        emag.EMAGNull(variant="map", statistic="logits")
    assert emag.EMAGNull(beta=0.0).neutral
