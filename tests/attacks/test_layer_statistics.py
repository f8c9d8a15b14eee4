"""Seven numbers of every array, against scipy, and what is left of them where an array has no shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute.layer_statistics import LayerStatistics, _statistics
from fl_privacy.updates import Update

SHAPES = {"fc1.weight": (6, 5), "fc1.bias": (6,), "fc2.weight": (1, 6), "fc2.bias": (1,)}


def draw(n: int, seed: int, scale: float = 1.0) -> list[Update]:
    rng = np.random.default_rng(seed)
    arrays = [
        {m: (rng.gamma(2.0 + i % 3, size=s) * scale).astype(np.float32) for m, s in SHAPES.items()} for i in range(n)
    ]
    return [Update(1, str(i), "gradient", 1.0, a) for i, a in enumerate(arrays)]


def by_hand(array: np.ndarray) -> np.ndarray:
    x = array.astype(np.float64).ravel()
    spread = x.std()
    shape = [x.mean() / spread, np.log(spread), stats.skew(x), np.log(stats.kurtosis(x, fisher=False))]
    return np.array([*shape, np.log(np.abs(x).mean()), x.max() / spread, x.min() / spread])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 60), st.sampled_from([1e-20, 1e-6, 1.0, 1e12]))
def test_the_statistics_are_scipys_whatever_the_size(seed, n, scale):
    array = (np.random.default_rng(seed).normal(0.3, 1, n) * scale).astype(np.float32)
    np.testing.assert_allclose(_statistics(array), by_hand(array), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("array", [np.zeros(6), np.full(6, 2.0), np.full(6, -1e-30), np.array([0.3]), np.full(4, 1e30)])
def test_arrays_without_a_shape_give_moderate_numbers(array):
    """A network's last bias may have one element; ratios to a spread of nothing would drown all else."""
    found = _statistics(array.astype(np.float32))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 200
    assert (found[[0, 2, 3, 5, 6]] == 0).all()


def test_a_layer_that_got_nothing_is_smaller_than_one_that_got_little():
    nothing, little, much = (_statistics(np.full(5, c, np.float32))[4] for c in (0.0, 1e-12, 1.0))
    assert nothing < little < much


@pytest.mark.parametrize("classes", [2, 3])
def test_the_nearest_class_is_scikit_learns_on_the_statistics(classes):
    own, private = draw(60, 0), draw(40, 1)
    y = np.arange(60) % classes
    auxiliary = Auxiliary(tuple(map(str, range(60))), tuple("abc"[:classes]))
    names = [n for n in SHAPES if n != "fc2.bias"]  # that one has no shape
    x, z = (np.array([np.concatenate([by_hand(u.arrays[n]) for n in names]) for u in side]) for side in (own, private))
    bias = [np.log(np.abs([u.arrays["fc2.bias"][0] for u in side])) for side in (own, private)]
    x, z = (np.column_stack([rows, size, size]) for rows, size in zip((x, z), bias, strict=True))
    scaler = StandardScaler().fit(x)
    expected = NearestCentroid().fit(scaler.transform(x), y).predict(scaler.transform(z))
    scores = LayerStatistics().fit(own, y, auxiliary).decision_function(private)
    named = (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)
    np.testing.assert_array_equal(named, expected)
    if classes == 3:
        assert (named == np.arange(40) % 3).mean() > 0.6


def test_another_classifier_and_other_layers():
    own, private = draw(30, 2), draw(10, 3)
    auxiliary = Auxiliary(tuple(map(str, range(30))), ())
    attack = LayerStatistics(["fc1"], classifier="ridge")
    assert attack.fit_transform(own, auxiliary).shape == (30, 14)
    ages = np.linspace(20, 70, 30)
    assert np.isfinite(attack.fit(own, ages, auxiliary).predict(private)).all()
