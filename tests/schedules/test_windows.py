"""When a run averages and when it applies: the published arithmetic, and what is refused."""

import pytest

import emag
from emag.errors import BadValue
from emag.schedules import Window, equal_time, k2idx
from tiny import CASES, sd3, sd3_call

PUBLISHED = Window.published(250, 50, 50)


def sigmas(count):
    return tuple(1 - i / count for i in range(count))


def steps(window, count, at=None):
    phases = window.phases(at or sigmas(count))
    applied = [i for i, phase in enumerate(phases) if phase == "apply"]
    return [i for i, phase in enumerate(phases) if phase != "off"], applied


@pytest.mark.parametrize(("count", "indices", "averaged", "applied", "applications"), [
    (20, (19, 4, 4), range(0, 16), range(4, 16), 12),
    (28, (27, 5, 5), range(0, 23), range(5, 23), 18),
    (50, (49, 10, 10), range(0, 40), range(10, 40), 30),
    (250, (249, 50, 50), range(0, 200), range(50, 200), 150),
])
def test_published_window(count, indices, averaged, applied, applications):
    assert tuple(k2idx(k, count) for k in (250, 50, 50)) == indices
    assert steps(PUBLISHED, count) == (list(averaged), list(applied))
    assert len(applied) == applications


@pytest.mark.parametrize(("count", "averaged", "applied"), [
    (1, [0], []), (2, [0, 1], [1]), (3, [0, 1, 2], [1, 2]), (4, [0, 1, 2], [1, 2]),
    (8, list(range(7)), list(range(1, 7)))])
def test_few_steps_average_before_they_apply(count, averaged, applied):
    assert steps(PUBLISHED, count) == (averaged, applied)


def test_dit_indices_are_positions():
    assert steps(Window.index(150, 50, 50), 250) == (list(range(99, 200)), list(range(149, 200)))
    assert len(range(149, 200)) == 51


@pytest.mark.parametrize(("k", "count", "index"), [
    (125, 28, 14), (125, 2, 0), (125, 4, 2), (125, 6, 2), (300, 28, 27), (-9, 28, 0), (50, 1, 0), (250, 1, 0)])
def test_rounding_is_half_to_even_and_clamped(k, count, index):
    assert k2idx(k, count) == index


def test_base_scales_the_indices():
    assert steps(Window.published(1000, 200, 200, base=1000), 28) == steps(PUBLISHED, 28)


@pytest.mark.parametrize(("window", "averaged", "applied"), [
    (Window.progress(0.25, 0.25, 0.75), [2, 3, 4, 5], [4, 5]),
    (Window.progress(0, 0, 1), list(range(8)), list(range(1, 8))),
    (Window.progress(0.5, 0.0, 0.75), [4, 5], [5]),
    (Window.sigma(0.75, 0.25, 0.25), [2, 3, 4, 5, 6], [4, 5, 6]),
    (Window.sigma(2, 1, 0), list(range(8)), list(range(1, 8))),
    (Window.index(5, 2, 1), [2, 3, 4, 5, 6], [4, 5, 6]),
])
def test_windows_of_eight_steps(window, averaged, applied):
    assert steps(window, 8) == (averaged, applied)


def test_sigma_window_reads_the_noise_levels_not_the_index():
    levels = (1.0, 0.95, 0.9, 0.6, 0.5, 0.1)
    assert steps(Window.sigma(0.95, 0.1, 0.5), 6, levels) == ([1, 2, 3, 4], [3, 4])


@pytest.mark.parametrize(("count", "beta"), [(28, 0.898), (50, 0.941), (250, 0.988)])
def test_equal_time(count, beta):
    assert round(equal_time(0.988, count), 3) == beta
    assert equal_time(0.988, count) ** count == pytest.approx(0.988**250)


@pytest.mark.parametrize("bad", [{"unit": "steps"}, {"delta": -1}, {"base": 0}, {"start": float("nan")},
                                 {"stop": float("inf")}, {"delta": float("nan")}])
def test_bad_windows(bad):
    with pytest.raises(BadValue):
        Window(**bad)


@pytest.mark.parametrize(("count", "window"), [
    (1, PUBLISHED), (1, Window.progress(0, 0, 1)), (8, Window.index(3, 3, 1)), (8, Window.index(0, 0, 0)),
    (8, Window.progress(0.9, 0.0, 1.0)), (8, Window.progress(0.6, 0.5, 1.0)), (8, Window.published(50, 0, 250)),
    (8, Window.sigma(1e-3, 0, 0))])
def test_a_window_without_weak_pass_is_refused_before_the_run(count, window):
    pipe, calls = sd3(), []
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(BadValue), emag.guide(pipe, emag.EMAG(2.0, layers=(1, 2), window=window)):
        pipe(**sd3_call(num_inference_steps=count))
    assert calls == []


@pytest.mark.parametrize("name", CASES)
def test_first_tracked_step_has_no_weak_pass(name):
    case = CASES[name]
    pipe = case.pipe()
    with emag.guide(pipe, emag.EMAG(2.0, layers=(1, 2), window=Window.progress(0.25, 0, 0.7))) as run:
        case.run(pipe)
    assert [effect is not None for effect in run.stats.effects] == [i in (3, 4, 5) for i in range(8)]
