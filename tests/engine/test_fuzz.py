"""The law for all guidances on all pipelines: images that are finite, or a refusal before the network is called; and the
pipeline as it was afterwards. Random lists of rules, the same ones every time."""

import pytest

import fuzz

SMALL = ("sd3", "dit", "pixart", "true-cfg", "lumina2", "z-image", "sd", "wan")


@pytest.fixture(autouse=True)
def _quiet():
    with fuzz.quiet():
        yield


def broken(name, numbers):
    bench, found = fuzz.Bench(name), []
    for number in numbers:
        item = fuzz.drawn(number, name, bench.style)
        why = fuzz.complaint(bench.try_out(item), item)
        if why:
            found.append(f"{number}: {why} ({item.rules}, {item.call})")
    return found


@pytest.mark.parametrize("name", SMALL)
def test_finite_or_refused_before_and_untouched_afterwards(name):
    assert broken(name, range(300, 312)) == []


@pytest.mark.long
@pytest.mark.parametrize("name", fuzz.CASES)
def test_the_same_for_many_lists_on_every_pipeline(name):
    assert broken(name, range(80)) == []


@pytest.mark.slow
def test_the_lists_reach_every_method_and_both_outcomes():
    """A fuzz that draws nothing, or refuses everything, would hold any law."""
    bench = fuzz.Bench("sd3")
    items = [fuzz.drawn(number, "sd3", bench.style) for number in range(300, 330)]
    results = [bench.try_out(item) for item in items]
    assert sum(result.error is None for result in results) >= 8
    assert sum(result.error is not None and not result.evaluated for result in results) >= 4
    named = {rule.name for number in range(400) for rule in fuzz.drawn(number, "sd3", bench.style).rules}
    assert named == set(fuzz.METHODS)
