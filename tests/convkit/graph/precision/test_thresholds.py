"""Which magnitudes int8 represents: histograms over samples, and how the largest magnitude is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from convkit.errors import SettingError
from convkit.graph.precision import METHODS, quantize
from convkit.graph.precision._thresholds import Histogram

RNG = np.random.default_rng(0)


def histogram(*parts: np.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(np.asarray(part, np.float32))
    return found


def quantisation_error(values: np.ndarray, threshold: float) -> float:
    """Return the mean square error of values in int8, in float64."""
    scale = threshold / 127
    return float(np.mean((values - np.clip(np.rint(values / scale), -127, 127) * scale) ** 2))


def test_it_counts_as_numpy_does_whatever_the_order_and_size_of_the_samples():
    values = np.concatenate([RNG.standard_normal(300_000) * 0.1, RNG.standard_normal(5000) * 30]).astype(np.float32)
    once = histogram(values)
    small_first = histogram(*np.split(values[np.argsort(np.abs(values))], 5))
    np.testing.assert_array_equal(once.counts, small_first.counts)
    expected, _ = np.histogram(np.abs(values), once.counts.size, (0, once.top))
    assert np.abs(once.counts - expected).sum() <= 20, "a value at an edge may fall on either side"
    assert once.counts.sum() == values.size
    assert once.top / 2 < np.abs(values).max() <= once.top


def test_memory_does_not_grow_with_the_range():
    found = histogram([0.0, 0.0], [1e-30], [1e30], [-5.0])
    assert found.counts.size == 4096
    assert found.counts.sum() == 5
    assert found.threshold("minmax") == pytest.approx(1e30)


def test_minmax_is_the_largest_magnitude():
    assert histogram([1.0, -7.25], [3.0]).threshold("minmax") == 7.25


def test_percentile_is_that_of_all_magnitudes():
    values = RNG.laplace(size=500_000).astype(np.float32)
    found = histogram(*np.split(values, 10))
    exact = np.percentile(np.abs(values.astype(np.float64)), 99.999)
    assert found.threshold("percentile") == pytest.approx(exact, abs=2 * found.top / found.counts.size)


@pytest.mark.parametrize(
    "values",
    [
        RNG.standard_normal(200_000), np.maximum(RNG.standard_normal(200_000), 0), RNG.laplace(size=200_000),
        np.append(RNG.standard_normal(200_000), [40.0]),
    ],
    ids=["normal", "rectified", "laplace", "outlier"],
)  # fmt: skip
def test_entropy_loses_little_more_than_minmax_and_less_where_few_values_lie_far_off(values):
    """By the error of the values in int8, which it does not look at."""
    found = histogram(values)
    entropy, largest = found.threshold("entropy"), found.threshold("minmax")
    assert quantisation_error(values, entropy) <= 1.5 * quantisation_error(values, largest)
    if largest == 40:
        assert entropy < 6
        assert quantisation_error(values[:-1], entropy) < quantisation_error(values[:-1], largest) / 20


def test_entropy_keeps_a_uniform_distribution_whole():
    assert histogram(RNG.uniform(-1, 1, 200_000)).threshold("entropy") == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0, 0.0], [], [3.0], [0.0, 2.0**-40], [1e-3, 5.0]])
def test_odd_distributions(method, values):
    found = histogram(values).threshold(method)
    largest = max(values, default=0)
    assert 0 <= found <= largest
    assert (found > 0) == (largest > 0)


def test_infinite_values_are_noticed():
    for value in (np.inf, -np.inf, np.nan):
        assert not histogram([1.0], [value, 2.0]).finite


def test_other_methods_are_refused():
    import onnx

    with pytest.raises(SettingError, match="cannot be 'entrpy'") as caught:
        quantize(onnx.ModelProto(), [], method="entrpy")
    assert "Did you mean 'entropy'?" in caught.value.hint
