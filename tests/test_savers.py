"""Rules that spare the unconditional evaluation: what they give in its place, and that it is really not made."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks.faster_cache import FasterCacheDenoiserHook

import emag
from emag.core import COND, UNCOND, Step, combine, needs_null, with_null
from emag.errors import BadValue
from emag.hosts.defaults import resolve
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods.null.ag import AG
from emag.methods.null.cfg_cache import CFGCache, low_pass
from emag.methods.null.linear_ag import LinearAG
from emag.methods.null.linear_ag_fit import Record, fit
from emag.methods.null.rcfg import RCFG, residual
from emag.records import recipe
from emag.schedules import Interval
from reference import SPACES, scheduler_steps, tensors
from spy import Counter, attention_of
from tiny import CASES

close = torch.testing.assert_close
exact = {"atol": 1e-10, "rtol": 1e-10}
HOSTS = pytest.mark.parametrize("case", ["sd3", "true-cfg"])
COUNT = 8


def levels(path, count=COUNT):
    sigmas = tuple(0.95 - 0.1 * i for i in range(count))
    return sigmas, tuple(1 - s if path == "flow" else math.sqrt(1 - s * s) for s in sigmas)


def steps(path="vp", space="x0", count=COUNT, grid=None):
    sigmas, alphas = levels(path, count)
    return [Step(i, sigmas, alphas, sigmas[i], space, tensors(50 + i, 1)[0].double(), Streams([]), grid=grid)
            for i in range(count)]


def pairs(count=COUNT, *shape):
    """Made-up (c, u) of a run."""
    return [tuple(t.double() for t in tensors(10 + i, 2, *shape)) for i in range(count)]


def walk(rules, at, run, told=None):
    """A run of the algebra: the predictions, the unconditional ones, and the steps that evaluated one."""
    states, made, nulls, evaluated = [{} for _ in rules], [], [], []
    for step, (cond, uncond) in zip(at, run):
        p = {COND: cond, UNCOND: uncond}
        if needs_null(rules, step, states):
            evaluated.append(step.index)
        else:
            del p[UNCOND]
        p = with_null(rules, p, step, states)
        made.append(combine(rules, p[COND], p, step, states))
        nulls.append(p.get(UNCOND))
    return made, nulls, evaluated


def images(case, *rules, **more):
    """Latents, rows evaluated by every block (per image), and the finished run."""
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, *rules) as run:
        made = CASES[case].run(pipe, **more)
    rows, = set(counter.blocks.values())
    return made, rows // 2, run


# adaptive guidance (M22)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_ag_spares_all_evaluations_once_the_branches_agree(case, combiner):
    _, rows, run = images(case, AG(-2.0), *combiner)
    assert rows == COUNT + 1 and run.stats.evaluations < run.stats.planned
    assert images(case, AG(0.999999), *combiner)[1] == 2 * COUNT


@HOSTS
def test_ag_is_cfg_on_the_first_step_and_conditional_ever_after(case):
    seen = []
    for rules in ((AG(-2.0), emag.CFG(3.0)), (emag.CFG(Interval(3.0, 0.0, 0.1, "progress")),)):
        pipe = CASES[case].pipe()
        with emag.guide(pipe, *rules), scheduler_steps(pipe) as at:
            CASES[case].run(pipe)
        seen.append([step.prediction for step in at])
    close(torch.stack(seen[0]), torch.stack(seen[1]), atol=1e-5, rtol=1e-5)


def test_ag_latches_at_equal_branches_and_holds():
    run = pairs()
    run[2] = (run[2][0], run[2][0].clone())
    made, _, evaluated = walk((AG(0.99), emag.CFG(3.0)), steps(), run)
    assert evaluated == [0, 1, 2]
    for i, (cond, uncond) in enumerate(run):
        close(made[i], cond if i > 2 else uncond + 3 * (cond - uncond), **exact)


def test_ag_decides_for_each_sample_and_spares_when_all_agree():
    run = pairs()
    for at, row in ((1, 0), (4, 1)):
        run[at][1][row] = run[at][0][row]
    made, _, evaluated = walk((AG(0.99), emag.CFG(3.0)), steps(), run)
    assert evaluated == [0, 1, 2, 3, 4]
    for i, (cond, uncond) in enumerate(run):
        full = uncond + 3 * (cond - uncond)
        for row, latched in ((0, 1), (1, 4)):
            close(made[i][row], (cond if i > latched else full)[row], **exact)


@pytest.mark.parametrize("on", ["x0", "epsilon"])
@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_ag_takes_the_cosine_in_its_space_whatever_the_network_predicts(path, space, on):
    step = steps(path, space)[3]
    at = (step.x, step.alpha, step.sigma, space)
    p = dict(zip((COND, UNCOND), pairs()[3]))
    there = {name: convert(t, *at, on).flatten(1) for name, t in p.items()}
    cosine = (there[COND] * there[UNCOND]).sum(1) / there[COND].norm(dim=1) / there[UNCOND].norm(dim=1)
    for threshold in cosine.tolist():
        for shift, latched in ((1e-9, cosine >= threshold + 1e-9), (-1e-9, cosine >= threshold - 1e-9)):
            state = {}
            assert AG(threshold + shift, on).new_null(p, step, state) is None
            assert torch.equal(state["agree"], latched)


def test_ag_in_epsilon_decides_nothing_at_pure_noise():
    """There a flow's epsilon is x for every branch."""
    noise = [Step(i, (1.0, 0.5), (0.0, 0.5), 1.0, "flow", tensors(1, 1)[0].double(), Streams([])) for i in range(2)]
    assert walk((AG(0.99, "epsilon"), emag.CFG(3.0)), noise, pairs(2))[2] == [0, 1]


def test_the_default_threshold_is_the_models():
    for model, threshold in (("tiny", 0.9998), ("SD3Transformer2DModel", 0.999), ("a plain function", 0.999)):
        assert resolve(AG(), (model,), 24).threshold == threshold
    assert not AG().neutral
    with pytest.raises(BadValue, match="default threshold for x0 alone"):
        AG(on="epsilon")


# LinearAG (M23)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_linear_ag_keeps_the_difference_of_the_step_before_in_x0(path, space):
    run, at = pairs(), steps(path, space)
    there = [tuple(convert(t, s.x, s.alpha, s.sigma, "x0", space) for t in pair) for s, pair in zip(at, run)]
    _, nulls, evaluated = walk((LinearAG(),), at, there)
    assert evaluated == [0, 2, 4, 5, 6, 7]
    for i, (cond, uncond) in enumerate(run):
        expected = cond - run[i - 1][0] + run[i - 1][1] if i in (1, 3) else uncond
        close(convert(nulls[i], at[i].x, at[i].alpha, at[i].sigma, space, "x0"), expected, atol=1e-8, rtol=1e-8)


def test_linear_ag_can_reuse_the_last_prediction():
    run = pairs()
    _, nulls, evaluated = walk((LinearAG((0, 0, 1), every=4, until=1.0),), steps(), run)
    assert evaluated == [0, 4]
    assert all(torch.equal(nulls[i], run[i - i % 4][1]) for i in range(COUNT))


def test_linear_ag_counts_what_it_gave_as_past_and_takes_the_latest_pair_first():
    run = pairs()
    _, nulls, evaluated = walk((LinearAG((0.5, 0.1, 0.2, 0.3, 0.4), pairs=2, steps=(3, 4)),), steps(), run)
    assert evaluated == [0, 1, 2, 5, 6, 7]
    third = 0.5 * run[3][0] + 0.1 * run[2][0] + 0.2 * run[2][1] + 0.3 * run[1][0] + 0.4 * run[1][1]
    close(nulls[3], third, **exact)
    close(nulls[4], 0.5 * run[4][0] + 0.1 * run[3][0] + 0.2 * third + 0.3 * run[2][0] + 0.4 * run[2][1], **exact)


def test_linear_ag_takes_coefficients_per_step():
    run = pairs()
    _, nulls, _ = walk((LinearAG((1, 0, 0, 0, 0, 1), steps=(5, 2)),), steps(), run)
    assert torch.equal(nulls[5], run[5][0]) and torch.equal(nulls[2], run[1][1])


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_linear_ag_spares_its_steps(case, combiner):
    assert images(case, LinearAG(), *combiner)[1] == 2 * COUNT - 2
    assert images(case, LinearAG(steps=(2, 3, 7)), *combiner)[1] == 2 * COUNT - 3


@pytest.mark.parametrize("saver", [LinearAG(steps=(3, 4)), LinearAG((1, 0, 0, 0, 0), pairs=2, steps=(3, 4, 5)),
                                   CFGCache(every=2, below=2.0), RCFG("onetime"), RCFG()], ids=repr)
def test_savers_wait_until_they_have_seen_what_they_need(saver):
    """Guidance that begins late: what was never evaluated cannot be made up for, and the plan knows it."""
    late = emag.CFG(Interval(3.0, 3 / COUNT, 1.0, "progress"))
    _, nulls, evaluated = walk((saver, late), steps(), pairs())
    first = list(range(3, 3 + saver.needs))
    assert evaluated[:saver.needs] == first and all(nulls[i] is not None for i in range(3, COUNT))
    _, rows, run = images("sd3", saver, late)
    assert rows == COUNT + len(evaluated) and run.stats.planned == run.stats.evaluations


@pytest.mark.parametrize("saver", [LinearAG(steps=(1, 2, 5)), CFGCache(every=3, below=2.0), RCFG("onetime", 0.9), RCFG()],
                         ids=repr)
def test_what_savers_give_does_not_depend_on_who_else_reads(saver):
    """Where a branch keeps the unconditional rows, they are evaluated and not used."""
    _, spared, evaluated = walk((saver,), steps(), pairs())
    states, given = [{}], []
    for step, pair in zip(steps(), pairs()):
        given.append(with_null((saver,), dict(zip((COND, UNCOND), pair)), step, states)[UNCOND])
    assert len(evaluated) < COUNT and all(torch.equal(a, b) for a, b in zip(spared, given))


# calibration


def spanned(theta, runs=3, at=(2, 4)):
    """Recorded runs whose u at some steps is a combination of what came before."""
    made = []
    for run in range(runs):
        pairs_of = [tuple(t.double() for t in tensors(100 * run + i, 2)) for i in range(COUNT)]
        for step in at:
            parts = [pairs_of[step][0], *(t for j in range(1, len(theta) // 2 + 1) for t in pairs_of[step - j])]
            pairs_of[step] = (pairs_of[step][0], sum(k * part for k, part in zip(theta, parts)))
        made.append(pairs_of)
    return made


@pytest.mark.parametrize("theta", [(0.3, -0.2, 0.9), (0.3, -0.2, 0.9, 0.1, -0.4)])
def test_fit_finds_what_is_there_to_find(theta):
    runs = spanned(theta)
    rule = fit(runs, steps=(2, 4), pairs=len(theta) // 2)
    assert rule.coefficients == pytest.approx(theta * 2) and rule.steps == (2, 4) and rule.count == COUNT
    _, nulls, evaluated = walk((rule,), steps(), runs[0])
    assert 2 not in evaluated and 4 not in evaluated
    for (_, uncond), null in zip(runs[0], nulls):
        close(null, uncond, **exact)


def test_fit_is_least_squares():
    """The normal equations, and no other coefficients do better on the runs."""
    runs = [pairs(), [tuple(t.double() for t in tensors(70 + i, 2, 3, 4, 6, 6)) for i in range(COUNT)]]
    rule = fit(runs)
    assert rule.steps == (1, 3)
    for at, step in enumerate(rule.steps):
        z = torch.stack([torch.cat([t.flatten() for t in parts]) for parts in zip(
            *[(run[step][0], run[step - 1][0], run[step - 1][1]) for run in runs])])
        u = torch.cat([run[step][1].flatten() for run in runs])
        assert rule.coefficients[3 * at:3 * at + 3] == pytest.approx(torch.linalg.solve(z @ z.T, z @ u).tolist())


def test_fit_survives_dependent_regressors():
    same = [(c, c.clone()) for c, _ in pairs()]
    rule = fit([same], steps=(1,))
    assert rule.coefficients[0] == pytest.approx(1) and all(map(math.isfinite, rule.coefficients))


@pytest.mark.parametrize("bad", [
    lambda: fit([]), lambda: fit([pairs(), pairs(7)]), lambda: fit([pairs()], steps=(0,)), lambda: fit([pairs()], steps=()),
    lambda: fit([pairs()], steps=(COUNT,)), lambda: fit([pairs()], steps=(1,), pairs=2), lambda: fit([pairs(1)])])
def test_fit_refuses(bad):
    with pytest.raises(BadValue):
        bad()


@HOSTS
def test_record_fit_and_guide(case, tmp_path):
    """As its docstring says: record, fit, write, read, guide; recording changes no bit."""
    pipe, seen = CASES[case].pipe(), Record()
    plain = images(case, emag.CFG(3.0))[0]
    with emag.guide(pipe, seen, emag.CFG(3.0)):
        assert torch.equal(CASES[case].run(pipe), plain)
        CASES[case].run(pipe, seeds=(3,))
    assert [len(run) for run in seen.runs] == [COUNT, COUNT]
    assert [len(run[0][0]) for run in seen.runs] == [2, 1]
    rule = fit(seen.runs)
    (tmp_path / "linear_ag.json").write_text(json.dumps(recipe.to_data([rule])))
    assert recipe.read_rules(tmp_path / "linear_ag.json") == (rule,)
    fitted, rows, _ = images(case, rule, emag.CFG(3.0))
    assert rows == 2 * COUNT - 2
    assert (fitted - plain).norm() < (images(case, emag.CFG(1.0))[0] - plain).norm()
    with pytest.raises(BadValue, match="steps"):
        images(case, rule, emag.CFG(3.0), num_inference_steps=5)


def test_record_refuses_steps_without_an_unconditional_prediction():
    with pytest.raises(BadValue, match="every step"):
        images("sd3", Record(), emag.CFG(Interval(3.0, 0.5, 1.0, "progress")))


# FasterCache's CFG-Cache (M25)

SHAPES = [(2, 4, 8, 8), (2, 4, 7, 9), (1, 3, 12, 5), (2, 3, 4, 6, 10), (2, 3, 11)]


def shifted(x, share=5, low=True):
    """Frequencies of x inside (or outside) the disk, as the authors draw it: centred, and complex."""
    dims = (-1,) if x.ndim == 3 else (-2, -1)
    spectrum = torch.fft.fftshift(torch.fft.fftn(x, dim=dims), dim=dims)
    places = torch.meshgrid(*[torch.arange(x.shape[d]) - x.shape[d] // 2 for d in dims], indexing="ij")
    disk = sum(place**2 for place in places) <= (min(x.shape[d] for d in dims) // share) ** 2
    kept = spectrum * (disk if low else ~disk)
    return kept, lambda s: torch.fft.ifftn(torch.fft.ifftshift(s, dim=dims), dim=dims)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_low_frequencies_are_those_of_the_disk_and_real(shape):
    x = tensors(1, 1, *shape)[0].double()
    spectrum, back = shifted(x)
    assert back(spectrum).imag.abs().max() < 1e-12
    low = low_pass(x, 0.2)
    close(low, back(spectrum).real, **exact)
    close(low_pass(low, 0.2), low, **exact)
    close(low + back(shifted(x, low=False)[0]).real, x, **exact)
    assert low_pass(torch.ones_like(x), 0.0).allclose(torch.ones_like(x))
    close(low_pass(x, 2.0), x, **exact)


def test_video_is_filtered_frame_by_frame():
    x = tensors(1, 1, 2, 3, 4, 6, 10)[0].double()
    for frame in range(4):
        close(low_pass(x, 0.2)[:, :, frame], low_pass(x[:, :, frame], 0.2), **exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compounding", [True, False])
def test_cfg_cache_is_the_published_run(shape, compounding):
    """Complex parts, kept and grown as published, against ours."""
    rule = CFGCache(every=3, below=0.8, low=1.3, high=0.7, low_range=(0.3, 0.7), high_range=(0.1, 0.5),
                    compounding=compounding)
    run = pairs(COUNT, *shape)
    at = [Step(i, *levels("vp"), levels("vp")[0][i], "epsilon", torch.empty(0), Streams([])) for i in range(COUNT)]
    _, nulls, evaluated = walk((rule,), at, run)
    assert evaluated == [0, 1, 3, 6]  # times .95 .85 .75 .65 .55 .45 .35 .25
    for i, (cond, uncond) in enumerate(run):
        if i in evaluated:
            low, high = (shifted(uncond - cond, low=part)[0] for part in (True, False))
            close(nulls[i], uncond, **exact)
            continue
        grow = 1.3 if 0.3 < at[i].time < 0.7 else 1, 0.7 if 0.1 < at[i].time < 0.5 else 1
        new, back = (grow[0] * low, grow[1] * high), shifted(cond)[1]
        close(nulls[i], cond + back(new[0] + new[1]).real, **exact)
        if compounding:
            low, high = new


def test_cfg_cache_with_factors_1_keeps_the_difference():
    """And so it gives the cached u where c has not changed."""
    cond, uncond = pairs()[0]
    rule = CFGCache(every=COUNT, below=2.0, low=1.0, high=1.0)
    _, nulls, evaluated = walk((rule,), steps(), [(cond, uncond)] + [(cond, torch.full_like(cond, math.nan))] * (COUNT - 1))
    assert evaluated == [0]
    for null in nulls:
        close(null, uncond, **exact)


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (1, 3, 7, 5)], ids=str)
def test_cfg_cache_at_its_defaults_is_that_of_diffusers(shape):
    """20 steps of its hook, on batches [u, c] of single frames."""
    run = [tuple(t.float() for t in pair) for pair in pairs(20, *shape)]
    sigmas = tuple(1 - i / 20 for i in range(20))
    at = [Step(i, sigmas, tuple(1 - s for s in sigmas), sigmas[i], "flow", torch.empty(0), Streams([])) for i in range(20)]
    now = SimpleNamespace(at=at[0])

    def factor(low, high):
        return lambda module: 1.1 if low < 1000 * now.at.time < high else 1.0

    hook = FasterCacheDenoiserHook(5, (-1, 641), "BCHW", False, ["hidden_states"], lambda: 1000 * now.at.time,
                                   factor(99, 901), factor(-1, 301))
    hook.initialize_hook(None)
    hook.fn_ref = SimpleNamespace(original_forward=lambda hidden_states: hidden_states)
    _, nulls, evaluated = walk((CFGCache(),), at, run)
    for now.at, (cond, uncond), null in zip(at, run, nulls):
        close(null, hook.new_forward(None, hidden_states=torch.cat([uncond, cond]))[:shape[0]], atol=1e-5, rtol=1e-5)
    assert evaluated == [0, 1, 2, 3, 4, 5, 6, 7, 10, 15]


def test_cfg_cache_unpacks_patches():
    """A sequence of 2x2 patches gives what the image gives."""
    run = pairs(COUNT, 2, 4, 6, 10)

    def packed(image):
        return image.reshape(2, 4, 3, 2, 5, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 15, 16)

    rule = CFGCache(every=4, below=2.0)
    plain = walk((rule,), steps(), run)[1]
    patches = walk((rule,), steps(grid=(3, 5, 2)), [tuple(map(packed, pair)) for pair in run])[1]
    for a, b in zip(plain, patches):
        close(packed(a), b, **exact)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
def test_cfg_cache_spares_its_steps(case, combiner):
    rule = CFGCache(every=3, below=0.9)
    pipe = CASES[case].pipe()
    with scheduler_steps(pipe) as at:
        CASES[case].run(pipe)
    due = [i for i, step in enumerate(at) if i % 3 and float(step.t) < 900]
    assert len(due) >= 3 and images(case, rule, *combiner)[1] == 2 * COUNT - len(due)


# residual CFG (M24)


def test_rcfg_is_the_recursion_of_the_residual_noise():
    """StreamDiffusion's LCM steps with c_out 1 and c_skip 0: r' = e' + (alpha' / sigma') dx, dx = sigma (r - g) / alpha."""
    sigmas, alphas = levels("vp")
    noises = [t.double() for t in tensors(20, COUNT)]
    conds = [t.double() for t in tensors(30, COUNT)]
    x, r, state = sigmas[0] * noises[0], noises[0], {}
    for i in range(COUNT - 1):
        step = Step(i, sigmas, alphas, sigmas[i], "epsilon", x, Streams([]))
        close(RCFG().new_null({COND: conds[i]}, step, state), r, **exact)
        g = 0.9 * r + 1.2 * (conds[i] - 0.9 * r)
        p = with_null((RCFG(delta=0.9),), {COND: conds[i]}, step, [{}])
        close(combine((emag.CFG(1.2),), conds[i], p, step, [{}]), g, **exact)
        clean, dx = (x - sigmas[i] * g) / alphas[i], sigmas[i] * (r - g) / alphas[i]
        x = alphas[i + 1] * clean + sigmas[i + 1] * noises[i + 1]
        r = noises[i + 1] + alphas[i + 1] / sigmas[i + 1] * dx
        close(r, (x - alphas[i + 1] * 0) / sigmas[i + 1], **exact)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_rcfg_onetime_fixes_the_first_clean_image(path, space):
    at, run = steps(path, space), pairs()
    _, nulls, evaluated = walk((RCFG("onetime"),), at, run)
    assert evaluated == [0]
    fixed = convert(run[0][1], at[0].x, at[0].alpha, at[0].sigma, space, "x0")
    for step, null in zip(at, nulls):
        close(convert(null, step.x, step.alpha, step.sigma, space, "x0"), fixed, **exact)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_rcfg_delta_scales_the_noise(path, space):
    step, clean = steps(path, space)[3], pairs()[0][0]
    noise = (step.x - step.alpha * clean) / step.sigma
    found = residual(clean, step, 0.7)
    close(convert(found, step.x, step.alpha, step.sigma, space, "epsilon"), 0.7 * noise, **exact)


def test_rcfg_where_it_agrees_and_where_guidance_is_off():
    step = steps("vp", "epsilon")[3]
    r = step.x / step.sigma
    p = with_null((RCFG(delta=0.8),), {COND: 0.8 * r}, step, [{}])
    close(combine((emag.CFG(1.2),), p[COND], p, step, [{}]), p[COND], **exact)
    cond = pairs()[0][0]
    p = with_null((RCFG(delta=0.8),), {COND: cond}, step, [{}])
    assert torch.equal(combine((emag.CFG(1.0),), cond, p, step, [{}]), cond)


@pytest.mark.parametrize("delta", [1.0, 0.7])
def test_rcfg_at_pure_noise_says_that_the_image_is_0(delta):
    step = Step(0, (1.0,), (0.0,), 1.0, "flow", tensors(1, 1)[0].double(), Streams([]))
    close(RCFG(delta=delta).new_null({COND: step.x}, step, {}), step.x, **exact)


@HOSTS
@pytest.mark.parametrize("combiner", [(), (emag.CFG(3.0),)], ids=["the host's", "ours"])
@pytest.mark.parametrize(("kind", "evaluations"), [("self", COUNT), ("onetime", COUNT + 1), ("full", 2 * COUNT)])
def test_rcfg_spares_all_evaluations_or_all_but_one(case, combiner, kind, evaluations):
    assert images(case, RCFG(kind), *combiner)[1] == evaluations


# all


@HOSTS
@pytest.mark.parametrize("off", [AG(1.5), CFGCache(every=1), LinearAG(until=0.0), LinearAG(every=1), RCFG("full")], ids=repr)
def test_savers_that_are_off_leave_cfg(case, off):
    assert off.neutral
    made, rows, _ = images(case, off, emag.CFG(3.0))
    plain, all_rows, _ = images(case, emag.CFG(3.0))
    assert torch.equal(made, plain) and rows == all_rows == 2 * COUNT


@pytest.mark.parametrize("bad", [
    lambda: AG(math.nan), lambda: AG(0.9, "flow"), lambda: LinearAG((1.0, 2.0)), lambda: LinearAG((1.0, math.nan, 1.0)),
    lambda: LinearAG(pairs=0), lambda: LinearAG(every=0), lambda: LinearAG(until=math.nan), lambda: LinearAG(steps=(0,)),
    lambda: LinearAG(steps=(2, 2)), lambda: LinearAG((1.0,) * 4, steps=(1, 2)), lambda: CFGCache(every=0),
    lambda: CFGCache(below=math.nan), lambda: CFGCache(low=-1.0), lambda: CFGCache(high=math.inf),
    lambda: CFGCache(low_range=(0.1,)), lambda: CFGCache(high_range=(0.5, 0.1)), lambda: CFGCache(radius=math.nan),
    lambda: CFGCache(low_range=(0.1, math.nan)), lambda: RCFG("initialize"), lambda: RCFG(delta=math.nan),
    lambda: RCFG(delta=-1.0)])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()
