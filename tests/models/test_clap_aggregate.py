import numpy as np
import pytest

from pipeline.models.clap.aggregate import AGGREGATES, TRIM_MIN_WINDOWS, aggregate, spherical_median

DIMS = 512


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cloud(n, spread, seed=0):
    """``n`` unit vectors at about ``spread`` radians around one direction."""
    rng = np.random.default_rng(seed)
    centre = unit(rng.standard_normal(DIMS))
    return unit(centre + spread * rng.standard_normal((n, DIMS)) / np.sqrt(DIMS)).astype(np.float32), centre


def over(embeddings, how, seconds=None, rms=None, norms=None):
    n = len(embeddings)
    seconds = np.full(n, 10.0) if seconds is None else np.asarray(seconds)
    rms = np.full(n, 0.1) if rms is None else np.asarray(rms)
    return aggregate(embeddings, how, seconds=seconds, rms=rms, norms=norms)


def angle(a, b):
    return 2 * np.arcsin(np.linalg.norm(a.astype(np.float64) - b) / 2)


@pytest.mark.parametrize("how", AGGREGATES)
def test_a_single_window_is_itself(how):
    x, _ = cloud(1, 0.3)
    np.testing.assert_allclose(over(x, how), x[0], atol=1e-7)


@pytest.mark.parametrize("how", AGGREGATES)
@pytest.mark.parametrize("n", [2, 3, 20, 200])
def test_the_result_has_unit_norm_and_points_to_the_middle(how, n):
    x, centre = cloud(n, 0.3)
    result = over(x, how)
    assert result.dtype == np.float32
    assert np.linalg.norm(result) == pytest.approx(1, abs=1e-6)
    assert angle(result, centre) < 1.2 * 0.3 / np.sqrt(n)


@pytest.mark.parametrize("how", AGGREGATES)
def test_no_window_with_an_embedding_gives_none(how):
    assert over(np.zeros((0, DIMS)), how) is None


@pytest.mark.parametrize("how", AGGREGATES)
def test_antipodal_windows_point_nowhere(how):
    x, _ = cloud(1, 0.3)
    assert over(np.vstack([x, -x]), how) is None


@pytest.mark.parametrize("how", AGGREGATES)
def test_zero_vectors_are_ignored_rather_than_divided_by(how):
    x, _ = cloud(3, 0.3)
    np.testing.assert_array_equal(over(np.vstack([x, np.zeros_like(x)]), how), over(x, how))
    assert over(np.zeros((3, DIMS)), how) is None


def test_mean_is_the_mean_of_unit_vectors_whatever_their_lengths():
    x, _ = cloud(7, 0.5)
    expected = unit(x.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(over(x * np.arange(1, 8)[:, None], "mean"), expected, atol=1e-6)


def test_weighted_is_energy_times_length_by_hand():
    x = np.eye(3, DIMS, dtype=np.float32)
    result = over(x, "weighted", seconds=[10, 10, 2.5], rms=[0.1, 0.2, 0.4])
    np.testing.assert_allclose(result[:3], unit(np.array([0.1, 0.4, 0.4])), atol=1e-6)


def test_weighted_survives_levels_whose_squares_underflow():
    x = np.eye(2, DIMS)
    result = over(x, "weighted", rms=[1e-200, 2e-200])
    np.testing.assert_allclose(result[:2], unit(np.array([1.0, 4.0])), atol=1e-6)
    assert over(x, "weighted", rms=[0.0, 0.0]) is None


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_one_corrupt_window_in_twenty_moves_robust_by_less_than_a_hundredth_of_the_mean(spread, seed):
    clean, _ = cloud(19, spread, seed)
    corrupt = unit(np.random.default_rng(100 + seed).standard_normal(DIMS))
    dirty = np.vstack([clean, corrupt])
    moved = {how: angle(over(clean, how), over(dirty, how)) for how in ("mean", "robust")}
    assert moved["mean"] > 0.04
    assert moved["robust"] < 0.01 * moved["mean"]


def test_robust_resists_four_corrupt_windows_in_ten():
    clean, centre = cloud(60, 0.3)
    other = unit(np.random.default_rng(5).standard_normal(DIMS))
    dirty = np.vstack([clean, np.tile(other, (40, 1))])
    assert angle(over(dirty, "mean"), centre) > 0.4
    assert angle(over(dirty, "robust"), centre) < 0.1


def test_robust_keeps_windows_that_differ_by_rounding_only():
    x, centre = cloud(30, 1e-8)
    assert angle(over(x, "robust"), centre) < 1e-6


def test_robust_drops_extreme_norms_where_there_are_enough_windows():
    n = TRIM_MIN_WINDOWS
    x, _ = cloud(n, 0.3)
    norms = np.linspace(5, 6, n)
    kept = (norms >= np.quantile(norms, 0.05)) & (norms <= np.quantile(norms, 0.95))
    assert 0 < n - kept.sum() <= 0.1 * n + 1
    np.testing.assert_array_equal(over(x, "robust", norms=norms), over(x[kept], "robust"))
    np.testing.assert_array_equal(over(x[:-1], "robust", norms=norms[:-1]), over(x[:-1], "robust"))


def test_spherical_median_has_the_least_sum_of_angles():
    x, _ = cloud(25, 0.5, seed=3)
    x = np.vstack([x, unit(np.random.default_rng(1).standard_normal((5, DIMS)))]).astype(np.float64)
    median = spherical_median(x)

    def cost(m):
        return sum(angle(row, m) for row in x)

    rng = np.random.default_rng(2)
    for step in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            assert cost(median) <= cost(unit(median + step * unit(rng.standard_normal(DIMS)))) + 1e-9
    # Downhill from the mean: the test above would also pass close to the start if the cost were flat.
    assert cost(median) < cost(unit(x.mean(axis=0))) - 1e-4


@pytest.mark.parametrize("how", AGGREGATES)
def test_order_does_not_matter(how):
    x, _ = cloud(50, 0.4)
    rng = np.random.default_rng(0)
    order, seconds, rms, norms = rng.permutation(50), rng.random(50), rng.random(50), rng.random(50)
    there = over(x, how, seconds, rms, norms)
    back = over(x[order], how, seconds[order], rms[order], norms[order])
    np.testing.assert_allclose(there, back, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"how": "median"}, "aggregate 'median' is unknown: use one of mean, weighted, robust"),
        ({"seconds": np.ones(2)}, "expected 3 seconds"),
        ({"rms": np.array([1, -1, 1])}, "rms must be finite and not negative"),
        ({"norms": np.array([1, np.nan, 1])}, "norms must be finite"),
        ({"embeddings": np.full((3, DIMS), np.nan)}, "embeddings must be finite"),
        ({"embeddings": np.ones(DIMS)}, "expected embeddings of"),
    ],
)
def test_bad_input_is_refused(changed, message):
    arguments = {
        "embeddings": np.eye(3, DIMS),
        "how": "mean",
        "seconds": np.ones(3),
        "rms": np.ones(3),
    } | changed
    with pytest.raises(ValueError, match=message):
        aggregate(arguments.pop("embeddings"), arguments.pop("how"), **arguments)
