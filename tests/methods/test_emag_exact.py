"""EMAG's exact properties, on every pipeline and variant."""

import itertools

import pytest
import torch

import emag
from cases import KINDS
from emag.errors import NoEffect
from emag.methods.emag.compat import Compat
from emag_averages import averages
from reference import (
    APPLIED,
    AVERAGED,
    LAYERS,
    TEXT_FREE,
    VARIANTS,
    freeze,
    rule,
    scheduler_steps,
    statistic_of,
    trace,
)
from tiny import CASES, sd3, sd3_call

pytestmark = pytest.mark.sampled(2)

ALL = pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in KINDS for variant in VARIANTS])
close = torch.testing.assert_close


def traced(monkeypatch, name, *rules, pipe=None, **call):
    """A guided run: what its average and its weak pass did, and its result."""
    case = CASES[name]
    pipe, seen = pipe or case.pipe(), trace(monkeypatch)
    with emag.guide(pipe, *rules) as run:
        image = case.run(pipe, **call)
    return seen, image, run.stats


def plain(name, **call):
    return CASES[name].run(CASES[name].pipe(), **call)


@ALL
def test_average_statistic_and_pick(monkeypatch, name, variant):
    seen, _, stats = traced(monkeypatch, name, rule(CASES[name], variant=variant))
    expected = {}
    for _block, updates in seen.watched.items():
        assert len(updates) == len(AVERAGED)
        lives = [u.live(variant) for u in updates]
        wanted = averages(lives, 0.9)
        for k, update in enumerate(updates):
            close(update.average.double(), wanted[k], atol=1e-5, rtol=1e-5)
            call = update.call
            true = statistic_of("logits" if variant == "query" else "mae", variant, wanted[k - 1] if k else lives[0],
                                call.q, call.k, call.image)
            close(update.statistic.double(), true, atol=1e-6, rtol=1e-3)
            expected.setdefault(k, []).append(true)
            assert k or not update.statistic.any()
    first, second = LAYERS[name]
    for step in range(8):
        if step not in APPLIED:
            assert stats.picks[step] is None
            continue
        by_block = dict(zip(seen.watched, expected[step]))
        assert list(stats.picks[step]) == [second if b > a else first for a, b in zip(by_block[first], by_block[second])]
    assert sorted(seen.watched) == [first, second]


@pytest.mark.parametrize("name", CASES)
def test_rows_of_the_average_sum_to_1(monkeypatch, name):
    seen, _, _ = traced(monkeypatch, name, rule(CASES[name], variant="map", beta=0.988))
    for updates in seen.watched.values():
        sums = updates[-1].average.sum(-1)
        close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)


@ALL
def test_weak_pass_touches_only_image_rows_of_the_picked_block(monkeypatch, name, variant):
    seen, _, _ = traced(monkeypatch, name, rule(CASES[name], variant=variant))
    assert len(seen.weak) == len(APPLIED) * 2
    for weak in seen.weak:
        assert weak.phase == "apply" and len(weak.chosen) == 2
        assert torch.equal(weak.text(weak.out), weak.text(weak.live))
        for chosen, out, live in zip(weak.chosen, weak.out, weak.live):
            assert torch.equal(out, live) != chosen
    for first, second in zip(seen.weak[::2], seen.weak[1::2]):
        assert [a + b for a, b in zip(first.chosen, second.chosen)] == [1, 1]


@pytest.mark.parametrize("off", [{"scale": 1.0}, {"strength": 0.0}, {"beta": 0.0}])
@ALL
def test_neutral_is_the_plain_pipeline(name, variant, off):
    pipe, case = CASES[name].pipe(), CASES[name]
    calls, forward = [], pipe.transformer.forward
    pipe.transformer.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    before = case.run(pipe)
    count = len(calls)
    with emag.guide(pipe, rule(case, variant=variant, **off)):
        assert torch.equal(case.run(pipe), before)
    assert len(calls) == 2 * count


@ALL
def test_almost_neutral_is_almost_the_plain_pipeline(monkeypatch, name, variant):
    expected = plain(name)
    for near in ({"strength": 1e-6}, {"beta": 1e-6}):
        _, image, stats = traced(monkeypatch, name, rule(CASES[name], variant=variant, **near))
        close(image, expected, atol=2e-3, rtol=2e-3)
        assert stats.effect < 1e-4


@ALL
def test_beta_1_keeps_the_first_attention(monkeypatch, name, variant):
    seen, _, _ = traced(monkeypatch, name, rule(CASES[name], variant=variant, beta=1.0))
    for updates in seen.watched.values():
        assert all(torch.equal(u.average, updates[0].average) for u in updates)
        close(updates[0].average.double(), updates[0].live(variant), atol=1e-6, rtol=1e-5)


@ALL
def test_the_same_step_over_and_over_has_no_effect(monkeypatch, name, variant):
    pipe, seen = freeze(CASES[name].pipe()), trace(monkeypatch)
    with pytest.raises(NoEffect), emag.guide(pipe, rule(CASES[name], variant=variant)):
        CASES[name].run(pipe)
    assert seen.picks == [[LAYERS[name][0]] * 2 if step in APPLIED else None for step in range(8)]
    assert not any(u.statistic.any() for updates in seen.watched.values() for u in updates)
    for weak in seen.weak:
        close(weak.out, weak.live, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_statistic_after_the_update_is_beta_times_the_one_before(monkeypatch, name):
    found = []
    for against in ("old", "updated"):
        seen, _, _ = traced(monkeypatch, name, rule(CASES[name], variant="map", compat=Compat(stat_against=against)))
        found.append(torch.stack([u.statistic for updates in seen.watched.values() for u in updates]))
    close(found[1], 0.9 * found[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lag", [0, 1])
def test_pick_by_this_or_the_last_statistic(monkeypatch, variant, lag):
    settings = {"variant": variant, "statistic": "mae", "compat": Compat(stat_lag=lag), "layers": (0, 1, 2, 3)}
    seen, _, stats = traced(monkeypatch, "dit", rule(CASES["dit"], **settings))
    made = torch.stack([torch.stack([u.statistic for u in seen.watched[block]]) for block in range(4)])
    now, before = ([tuple(made[:, step - back].argmax(0).tolist()) for step in APPLIED] for back in (0, 1))
    assert [stats.picks[step] for step in APPLIED] == (before if lag else now) and before != now


@pytest.mark.parametrize("statistic", ["mae", "kl", "cosine", "entropy"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_statistics(monkeypatch, name, variant, statistic):
    seen, _, stats = traced(monkeypatch, name, rule(CASES[name], variant=variant, statistic=statistic))
    found = {block: [] for block in LAYERS[name]}
    for block, updates in seen.watched.items():
        wanted = averages([u.live(variant) for u in updates], 0.9)
        for k, update in enumerate(updates[1:], start=1):
            call = update.call
            true = statistic_of(statistic, variant, wanted[k - 1], call.q, call.k, call.image)
            close(update.statistic.double(), true, atol=2e-6, rtol=2e-3)
            found[block].append(update.statistic)
    first, second = LAYERS[name]
    for step in APPLIED:
        pairs = zip(found[first][step - 1], found[second][step - 1])
        assert list(stats.picks[step]) == [second if b > a else first for a, b in pairs]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_fixed_replaces_every_listed_block(monkeypatch, name, variant):
    seen, _, stats = traced(monkeypatch, name, rule(CASES[name], variant=variant, statistic="fixed"))
    assert stats.picks == (None,) * 8 and len(seen.weak) == len(APPLIED) * 2
    for weak in seen.weak:
        assert all(not torch.equal(out, live) for out, live in zip(weak.out, weak.live))


@pytest.mark.parametrize("name", TEXT_FREE)
def test_map_and_image_are_one_where_the_attention_has_no_text(monkeypatch, name):
    a, b = (traced(monkeypatch, name, rule(CASES[name], variant=v))[1] for v in ("map", "image"))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_variants_differ_elsewhere(monkeypatch, name):
    images = [traced(monkeypatch, name, rule(CASES[name], variant=v))[1] for v in VARIANTS]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.pairwise(images))


def replayed(name, recorded):
    """The host's own prediction at each recorded x: a run whose scheduler is led along the recorded path."""
    case, pipe = CASES[name], CASES[name].pipe()
    original, made = pipe.scheduler.step, []

    def step(prediction, t, x, *args, **kwargs):
        made.append(prediction.clone())
        out = original(prediction, t, x, *args, **kwargs)
        after = recorded[len(made) - 1].after
        if isinstance(out, tuple):
            return (after, *out[1:])
        out.prev_sample = after
        return out

    pipe.scheduler.step = step
    case.run(pipe)
    return made


@pytest.mark.parametrize(("name", "settings"), [
    *[(name, {"variant": variant}) for name in KINDS for variant in VARIANTS],
    *[(name, {"compat": f"{name}-official"}) for name in ("sd3", "dit")]])
def test_only_steps_of_the_window_leave_the_hosts_cfg(name, settings):
    case = CASES[name]
    pipe = case.pipe()
    with scheduler_steps(pipe) as guided, emag.guide(pipe, rule(case, **settings)):
        case.run(pipe)
    own = replayed(name, guided)
    assert [torch.equal(g.prediction, o) for g, o in zip(guided, own)] == [i not in APPLIED for i in range(8)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "sigma"])
def test_without_unconditional_rows_it_is_weak_plus_w_times_the_rest(monkeypatch, name, variant):
    case, made = CASES[name], []
    answer = emag.EMAG.apply

    def applying(self, pred, branches, step, state):
        out = answer(self, pred, branches, step, state)
        made.append((dict(branches), out))
        return out

    monkeypatch.setattr(emag.EMAG, "apply", applying)
    pipe, emag_rule = case.pipe(), rule(case, variant=variant, scale=2.5)
    with emag.guide(pipe, emag_rule) as run, scheduler_steps(pipe) as steps:
        case.run(pipe, guidance_scale=1.0)
    assert run.stats.clean == 8 * 4 and run.stats.evaluations == 8 * 4 + len(APPLIED) * 3 == run.stats.planned
    for i, (branches, _) in enumerate(made):
        weak, cond = branches.get(emag_rule.perturbation), branches["cond"]
        assert set(branches) == {"cond"} | ({emag_rule.perturbation} if i in APPLIED else set())
        expected = cond if weak is None else weak + 2.5 * (cond - weak)
        close(steps[i].prediction[:, :4], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_queries_that_meet_no_keys_change_nothing(monkeypatch, name):
    pipe = CASES[name].pipe()
    for module in pipe.transformer.modules():
        for part in ("to_k", "add_k_proj"):
            if isinstance(getattr(module, part, None), torch.nn.Linear):
                for parameter in getattr(module, part).parameters():
                    torch.nn.init.zeros_(parameter)
    seen, _, stats = traced(monkeypatch, name, rule(CASES[name]), pipe=pipe)
    assert stats.effect < 1e-5
    assert not any(u.statistic.any() for updates in seen.watched.values() for u in updates)
    assert any((a.average - b.average).abs().max() > 0.01 for a, b in
               zip(seen.watched[LAYERS[name][0]], seen.watched[LAYERS[name][0]][1:]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["sd3", "dit", "true-cfg"])
def test_two_runs_are_alike_and_an_interrupted_one_leaves_nothing(name, variant):
    case = CASES[name]
    pipe = case.pipe()
    processors = [getattr(m, "processor", None) for m in pipe.transformer.modules()]
    with emag.guide(pipe, rule(case, variant=variant)) as run:
        first = case.run(pipe)
        stats = run.stats
        with scheduler_steps(pipe) as steps:
            _stop_at(pipe, steps, 4)
            with pytest.raises(RuntimeError, match="stop"):
                case.run(pipe)
        assert torch.equal(case.run(pipe), first)
        assert run.stats.picks == stats.picks
    assert all(a is b for a, b in zip(processors, [getattr(m, "processor", None) for m in pipe.transformer.modules()]))


def _stop_at(pipe, steps, at):
    inner = pipe.scheduler.step

    def step(*args, **kwargs):
        if len(steps) == at:
            raise RuntimeError("stop")
        return inner(*args, **kwargs)

    pipe.scheduler.step = step


def test_equal_time_rescales_beta(monkeypatch):
    seen, _, _ = traced(monkeypatch, "sd3", rule(CASES["sd3"], beta=0.988, beta_time="equal-time"))
    beta = 0.988 ** (250 / 8)
    for updates in seen.watched.values():
        close(updates[1].average.double(), beta * updates[0].live("query") + (1 - beta) * updates[1].live("query"),
              atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_strength_blends_and_jitter_moves(monkeypatch, variant, jitter):
    effects = [traced(monkeypatch, "sd3", rule(CASES["sd3"], variant=variant, strength=s, jitter=jitter, layers=(1,)))[2]
               for s in (0.1, 1.0)]
    assert effects[0].effects[2][0] < effects[1].effects[2][0]
    still = traced(monkeypatch, "sd3", rule(CASES["sd3"], variant=variant, layers=(1,)))[2]
    assert (effects[1].effects[2] == still.effects[2]) == (jitter == 0)


def test_two_jittered_averages_of_one_block():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    with emag.guide(pipe, *(rule(case, variant=v, jitter=0.1) for v in ("query", "map"))) as run:
        assert case.run(pipe).isfinite().all()
    assert run.stats.evaluations == 8 * 2 * 4 + 2 * 3 * len(APPLIED)


@pytest.mark.slow
def test_counts_on_24_blocks():
    pipe = sd3(layers=24)
    counts = {}
    for compat in ("clean", "sd3-official"):
        with emag.guide(pipe, emag.EMAG(1.5, compat=compat), emag.CFG(7.0)) as run:
            pipe(**sd3_call(seeds=(8,), num_inference_steps=28))
        assert run.stats.evaluations == run.stats.planned and run.stats.clean == 1344
        counts[compat] = run.stats.evaluations
        picks = [row[0] for row in run.stats.picks if row]
        assert len(picks) == 18 and set(picks) <= {6, 7, 8}
    assert counts == {"clean": 1668, "sd3-official": 2688}


def test_ties_go_to_the_first_listed_block_and_resume_is_the_lowest():
    weak = emag.EMAG(1.5, layers=(3, 1, 2), window=emag.Window()).perturbation
    state = weak.start(tuple(1 - i / 8 for i in range(8)), None)
    state.averages = dict.fromkeys((1, 2, 3))  # there, from the steps before
    state.begin(4)
    state.statistic = {block: torch.zeros(2) for block in (1, 2, 3)}
    state.choose()
    assert [weak.blocks[i] for i in state.pick] == [3, 3]
    assert weak.resume == 1
