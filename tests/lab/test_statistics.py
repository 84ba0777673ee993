"""Statistics of features against scipy, pytorch-fid, prdc, torchmetrics, brute force and closed forms."""

import sys
import types

import numpy as np
import pytest
import torch

from emag.errors import BadValue
from emag.lab.evaluate.metrics import bootstrap, diversity, frechet, kid, pixels, prdc
from emag.lab.evaluate.metrics.jackknife import Jackknife, wilson

close = np.testing.assert_allclose


def features(seed, n=200, d=12, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / d**0.5 + shift


def fd(x, y):
    return frechet.distance(frechet.moments(x), frechet.moments(y))


@pytest.fixture
def pytorch_fid(monkeypatch):
    """pytorch-fid's module; what it imports of torchvision is not used on features."""
    pytest.importorskip("scipy")
    for name, parts in (("torchvision", {}), ("torchvision.transforms", {}), ("torchvision.models", {})):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**parts))
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", types.SimpleNamespace(
        InceptionV3=types.SimpleNamespace(BLOCK_INDEX_BY_DIM={2048: 3})))
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    return pytest.importorskip("pytorch_fid.fid_score")


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_distance_is_scipys(shift):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(1), features(2, shift=shift)
    covs = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    known = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sum(covs) - 2 * linalg.sqrtm(covs[0] @ covs[1]).real)
    close(fd(x, y), known, rtol=1e-9)


def test_distance_is_pytorch_fids(pytorch_fid):
    x, y = features(3, n=400, d=32), features(4, n=300, d=32, shift=0.3)
    moments = [(one.mean(0), np.cov(one, rowvar=False)) for one in (x, y)]
    close(fd(x, y), pytorch_fid.calculate_frechet_distance(*moments[0], *moments[1]), rtol=1e-8)


def test_distance_of_the_same_is_zero_and_it_is_symmetric():
    x, y = features(5), features(6, shift=0.2)
    assert fd(x, x) < 1e-10 and fd(x, x[::-1].copy()) < 1e-10
    close(fd(x, y), fd(y, x), rtol=1e-10)


def test_distance_of_equal_covariances_is_the_shift():
    x = features(7)
    close(fd(x, x + np.arange(12)), (np.arange(12) ** 2).sum(), rtol=1e-9)


def test_distance_of_a_scaled_copy():
    """S2 = c^2 S1: tr(S1 + S2 - 2 root) = (c - 1)^2 tr S1."""
    x = features(8)
    x -= x.mean(0)
    close(fd(x, 3 * x), 4 * np.trace(np.cov(x, rowvar=False)), rtol=1e-9)


@pytest.mark.parametrize("rows", [(5, 7), (5, 300), (300, 5)])
def test_fewer_images_than_channels(rows):
    """tr (S1 S2)^1/2 is the nuclear norm of X1 X2^T, both centred and scaled: no root of a singular matrix is needed."""
    x, y = features(9, rows[0], 24), features(10, rows[1], 24, 0.5)
    a, b = ((one - one.mean(0)) / (len(one) - 1) ** 0.5 for one in (x, y))
    trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    known = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * trace
    close(fd(x, y), known, rtol=1e-6)


def test_moments_are_numpys_and_weights_are_copies():
    x = features(11, 30, 4)
    found = frechet.moments(x)
    close(found.mean, x.mean(0), atol=1e-12)
    close(found.cov, np.cov(x, rowvar=False), atol=1e-12)
    weights = np.arange(30) % 4
    weighted, copied = frechet.moments(x, weights), frechet.moments(np.repeat(x, weights, axis=0))
    close(weighted.mean, copied.mean, atol=1e-12)
    close(weighted.cov, copied.cov, atol=1e-12)
    assert weighted.count == copied.count == weights.sum()


def test_features_of_two_extractors_have_no_distance():
    with pytest.raises(BadValue, match="12 and of 13"):
        fd(features(1), features(1, d=13))
    with pytest.raises(BadValue, match="two images"):
        frechet.moments(features(1, n=1))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_is_the_package(k, capsys):
    package = pytest.importorskip("prdc")
    x, y = features(20, 150), features(21, 120, shift=0.4)
    known = package.compute_prdc(x, y, nearest_k=k)
    found = prdc.prdc(x, y, k, chunk=17)
    for name, value in known.items():
        close(getattr(found, name).mean(), value, atol=1e-12)


def test_prdc_by_brute_force():
    x, y, k = features(22, 40), features(23, 30, shift=0.3), 3

    def distance(a, b):
        return np.linalg.norm(a - b)

    ball_x = [sorted(distance(a, b) for b in x)[k] for a in x]
    ball_y = [sorted(distance(a, b) for b in y)[k] for a in y]
    found = prdc.prdc(x, y, k)
    close(found.precision, [any(distance(a, b) < r for a, r in zip(x, ball_x)) for b in y])
    close(found.recall, [any(distance(a, b) < r for b, r in zip(y, ball_y)) for a in x])
    close(found.density, [sum(distance(a, b) < r for a, r in zip(x, ball_x)) / k for b in y])
    close(found.coverage, [any(distance(a, b) < r for b in y) for a, r in zip(x, ball_x)])


def test_prdc_inside_is_strict():
    """On the line 0, 1, 2, 3 every radius at k=1 is 1; a generated image at exactly that distance is outside."""
    x, y = np.arange(4.0)[:, None], np.array([[4.0], [7.0], [10.0]])
    found = prdc.prdc(x, y, 1)
    assert found.precision.sum() == found.coverage.sum() == 0
    assert prdc.prdc(x, y - 0.01, 1).precision.tolist() == [1, 0, 0]


def test_prdc_does_not_depend_on_chunks_or_order():
    x, y = features(24, 90), features(25, 70)
    whole, order = prdc.prdc(x, y, 5), np.random.default_rng(0).permutation(70)
    for chunk in (1, 13, 90):
        close(prdc.prdc(x, y, 5, chunk=chunk).density, whole.density)
    close(prdc.prdc(x, y[order], 5).precision, whole.precision[order])
    same = prdc.prdc(x, x.copy(), 5)
    assert same.precision.min() == same.recall.min() == same.coverage.min() == 1
    with pytest.raises(BadValue, match="more than 5 images"):
        prdc.prdc(x, y[:5], 5)


def test_kid_is_torchmetrics():
    package = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(30, 100), features(31, 100, shift=0.3)
    a, b = (torch.from_numpy(one) for one in (x, y))
    close(kid.mmd2(x, y), float(package.poly_mmd(a, b)), rtol=1e-9)
    found = kid.kid(x, y, subsets=3, size=100)
    close(found.value, kid.mmd2(x, y), rtol=1e-9)


def test_kid_is_unbiased_and_sees_a_shift():
    values = [kid.mmd2(features(i, 40, 3)[:20], features(i, 40, 3)[20:]) for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5 and min(values) < 0
    x, y = features(32, 300), features(32, 300)[::-1]
    assert kid.kid(x, y + 0.5, 20, 50).low > kid.kid(x, y.copy(), 20, 50).high
    assert kid.kid(x, y, 20, 50) == kid.kid(x, y, 20, 50)


@pytest.mark.parametrize(("n", "r", "size"), [(12, 12, 1000), (60, 60, 1000), (150, 60, 1000), (150, 300, 40)])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_interval_of_kid_holds_the_truth_as_often_as_it_says(n, r, size, shift):
    """Of two samples of one distribution 0 is the truth; else the mean over many seeds. Subsets of all rows included."""
    draws = [np.random.default_rng(seed) for seed in range(60)]
    found = [kid.kid(rng.standard_normal((n, 8)), rng.standard_normal((r, 8)) + shift, 10, size) for rng in draws]
    truth = np.mean([one.value for one in found]) if shift else 0.0
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.88
    width, spread = np.mean([one.high - one.low for one in found]) / 3.92, np.std([one.value for one in found])
    assert 0.8 < width / spread < 2.2


def test_the_interval_of_kid_narrows_with_images_not_with_subsets():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((800, 8)) + 0.5, rng.standard_normal((800, 8))
    few, many = (kid.kid(x, y, subsets, 100) for subsets in (20, 200))
    assert 0.6 < (many.high - many.low) / (few.high - few.low) <= 1.05
    half = kid.kid(x[:200], y[:200], 20, 100)
    assert 1.5 < (half.high - half.low) / (few.high - few.low) < 3


def test_dissimilarity_by_brute_force():
    x, groups = features(33, 7, 5), ["a", "b", "a", "b", "a", "c", "a"]
    known = []
    for i in range(7):
        others = [j for j in range(7) if groups[j] == groups[i] and j != i]
        known.append(np.mean([1 - x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in others])
                     if others else np.nan)
    close(diversity.dissimilarity(x, groups), known)
    assert np.abs(diversity.dissimilarity(np.ones((4, 3)), [0] * 4)).max() < 1e-12


def test_what_each_image_moves_diversity_by_brute_force():
    """In groups of four, three, two and one: the value without the image, computed anew."""
    x, groups = features(34, 10, 5), ["a", "b", "a", "b", "a", "c", "a", "c", "b", "d"]
    found = diversity.diversity(x, groups)
    for i in range(10):
        left = [j for j in range(10) if j != i]
        without = np.nanmean(diversity.dissimilarity(x[left], [groups[j] for j in left]))
        close(found.moved[i], found.value - without, atol=1e-12)
    close(found.value, np.nanmean(diversity.dissimilarity(x, groups)))
    with pytest.raises(BadValue, match="three images"):
        diversity.diversity(x[:3], ["a", "a", "b"])


def test_the_interval_of_diversity_holds_the_truth_as_often_as_it_says():
    """Read as independent, the values per image would give half the width: each image is in those of all its group."""
    draws = [diversity.diversity(np.random.default_rng(seed).standard_normal((30, 5)) + 1, [i % 3 for i in range(30)])
             for seed in range(300)]
    truth, found = np.mean([one.value for one in draws]), [bootstrap.interval(one) for one in draws]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92


def test_what_each_image_moves_recall_and_coverage_by_brute_force():
    """The balls of the others as they are."""
    x, y = features(26, 40), features(27, 30, shift=0.3)
    found = prdc.prdc(x, y, 3, chunk=7)
    ball_x, ball_y = (prdc.radii(torch.from_numpy(one), 3).numpy() ** 0.5 for one in (x, y))
    distances = np.linalg.norm(x[:, None] - y[None], axis=2)
    near, held = distances < ball_x[:, None], distances < ball_y
    assert found.alone_recall.max() > 0 and found.alone_coverage.max() > 0
    for i in range(30):
        left = np.arange(30) != i
        close(found.alone_coverage[i], near.any(1).mean() - near[:, left].any(1).mean(), atol=1e-12)
        close(found.alone_recall[i], held.any(1).mean() - held[:, left].any(1).mean(), atol=1e-12)


def test_the_intervals_of_recall_and_coverage_speak_of_other_seeds():
    """Real images share the balls of the images made; drawn as if independent, their intervals are far too narrow."""
    x = np.random.default_rng(99).standard_normal((100, 6))
    draws = [prdc.prdc(x, np.random.default_rng(seed).standard_normal((60, 6)) + 0.5, 3) for seed in range(60)]
    for name in ("recall", "coverage"):
        parts = [Jackknife(getattr(one, name).mean(), getattr(one, f"alone_{name}"), share=True) for one in draws]
        truth, found = np.mean([one.value for one in parts]), [bootstrap.interval(one) for one in parts]
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.88


def test_paired_differences_of_values_that_are_no_means():
    rng = np.random.default_rng(4)
    x, groups = rng.standard_normal((60, 5)) + 1, [i % 3 for i in range(60)]
    a, b = (diversity.diversity(one, groups) for one in (x, x + 0.02 * rng.standard_normal((60, 5))))
    found, own = bootstrap.difference(a, b), bootstrap.interval(a)
    close(found.value, a.value - b.value)
    assert found.high - found.low < (own.high - own.low) / 5
    with pytest.raises(BadValue, match="same images"):
        bootstrap.difference(a, diversity.diversity(x[:50], groups[:50]))


def test_saturation_and_contrast_of_known_images():
    grey = np.full((1, 4, 4, 3), 90, np.uint8)
    red = np.zeros_like(grey)
    red[..., 0] = 200
    half = red.copy()
    half[..., 1:] = 100
    close(pixels.saturation(np.concatenate([grey, red, half, 0 * grey])), [0, 1, 0.5, 0])
    checks = grey.copy()
    checks[:, ::2] = 0
    close(pixels.contrast(np.concatenate([grey, checks])), [0, 45 / 255], atol=1e-12)


def test_high_frequency_is_all_of_a_checkerboard_and_none_of_a_wave():
    y, x = np.mgrid[:16, :16]
    board, wave = 255 * ((x + y) % 2), np.round(127.5 + 127 * np.cos(2 * np.pi * x / 16))
    images = np.stack([board, wave], 0).astype(np.uint8)[..., None].repeat(3, -1)
    high = pixels.high_frequency(images)
    close(high[0], pixels.luma(images)[0].var(), rtol=1e-9)
    assert high[1] < 1e-4


def test_per_pixel_numbers_do_not_see_their_neighbours():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    for fn in (pixels.saturation, pixels.contrast, pixels.high_frequency):
        close(fn(images), np.concatenate([fn(image[None]) for image in images]), rtol=1e-12)


def test_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(1).standard_normal(2000)
    found = bootstrap.interval(bootstrap.mean(x))
    assert found.value == pytest.approx(x.mean()) and found.n == 2000
    close([found.low, found.high], x.mean() + np.array([-1.96, 1.96]) * x.std() / 2000**0.5, atol=0.006)
    assert found == bootstrap.interval(bootstrap.mean(x)) != bootstrap.interval(bootstrap.mean(x), seed=1)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    found = [bootstrap.interval(bootstrap.Statistic(bootstrap.mean(rng.random(60)).of, 60, 200)) for _ in range(200)]
    assert 0.88 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.99


def test_the_interval_of_a_share_is_a_share():
    found = bootstrap.interval(bootstrap.mean(np.arange(30) > 0))
    assert 0.8 < found.low < found.value < found.high == 1


@pytest.mark.parametrize("of", [lambda true: bootstrap.mean(np.full(12, true)),
                                lambda true: Jackknife(float(true), np.zeros(12), share=True)])
def test_all_of_a_few_images_are_not_all(of):
    """12 of 12: the 95 % interval begins at 12 / (12 + z^2); none of 12 ends where that of its opposite begins."""
    for true in (True, False):
        found = bootstrap.interval(of(true))
        low, high = (found.low, found.high) if true else (1 - found.high, 1 - found.low)
        close([low, high], [12 / (12 + 1.96**2), 1], atol=1e-4)
    assert wilson(0.5, 0) == (0, 1)


def test_one_image_has_no_interval():
    for one in (bootstrap.mean([0.5]), Jackknife(0.5, np.zeros(1))):
        with pytest.raises(BadValue, match="two images"):
            bootstrap.interval(one)
    assert bootstrap.described(bootstrap.mean([0.5])) == bootstrap.Estimate(0.5, 0.5, 0.5, 1)


def test_the_median_of_drawn_rows():
    x = np.random.default_rng(5).standard_normal(41)
    statistic = bootstrap.median(x)
    assert statistic.value == np.median(x)
    for w in bootstrap.weights(41, 5, 0):
        assert statistic.of(w) == np.median(np.repeat(x, w.astype(int)))
    assert bootstrap.interval(statistic).low < np.median(x) < bootstrap.interval(statistic).high


def test_rows_without_a_value_do_not_count():
    x = np.array([1.0, np.nan, 3.0])
    assert bootstrap.mean(x).value == 2
    assert bootstrap.mean(x).of(np.array([1.0, 5.0, 3.0])) == 2.5
    with pytest.raises(BadValue, match="no image"):
        bootstrap.mean([np.nan])


def test_interval_of_a_distance_is_that_of_drawn_rows():
    x, y = features(40, 80, 4), frechet.moments(features(41, 500, 4, shift=0.5))
    statistic = bootstrap.frechet(x, y, draws=20)
    rng = np.random.default_rng([0, 80])
    for w in bootstrap.weights(80, 20, 0):
        rows = x[rng.integers(80, size=80)]
        close(statistic.of(w), frechet.distance(y, frechet.moments(rows)), rtol=1e-9)
    found = bootstrap.interval(statistic)
    close(found.value, fd(x, features(41, 500, 4, shift=0.5)), rtol=1e-9)
    assert found.low < found.value < found.high


def test_paired_differences_are_narrower_and_exact_for_a_shift():
    rng = np.random.default_rng(3)
    x = rng.standard_normal(400)
    a, b = bootstrap.mean(x), bootstrap.mean(x + 0.1)
    found = bootstrap.difference(b, a)
    close([found.value, found.low, found.high], [0.1] * 3, atol=1e-12)
    unpaired = bootstrap.difference(bootstrap.mean(rng.permutation(x + 0.1)), a)
    assert unpaired.high - unpaired.low > 0.1
    assert bootstrap.difference(a, b).value == -found.value
    with pytest.raises(BadValue, match="same images"):
        bootstrap.difference(a, bootstrap.mean(x[1:]))
