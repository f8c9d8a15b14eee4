from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from fl_privacy.features import FeatureError, normalise

tables = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(values=tables, data=st.data())
def test_the_result_is_finite_float32_of_the_same_shape(values: np.ndarray, data: st.DataObject) -> None:
    speakers = data.draw(st.lists(st.sampled_from("abc"), min_size=len(values), max_size=len(values)))
    for how in ("global", "speaker", "none"):
        result = normalise(values, speakers, how)
        assert result.dtype == np.float32
        assert result.shape == values.shape
        assert np.isfinite(result).all()


def test_global_is_what_scikit_learn_does() -> None:
    values = np.random.default_rng(0).normal(3, 5, (40, 6))
    reference = np.arange(40) < 25
    expected = StandardScaler().fit(values[reference]).transform(values)
    np.testing.assert_allclose(normalise(values, ["a"] * 40, "global", reference), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        normalise(values, ["a"] * 40, "global"), StandardScaler().fit_transform(values), rtol=1e-5, atol=1e-6
    )


def test_speaker_is_the_published_formula() -> None:
    rng = np.random.default_rng(1)
    values, speakers = rng.normal(3, 5, (30, 4)), rng.choice(["a", "b", "c"], 30)
    result = normalise(values, list(speakers), "speaker")
    for row, speaker in enumerate(speakers):
        own = [values[other] for other in range(30) if speakers[other] == speaker]
        for column in range(4):
            numbers = [vector[column] for vector in own]
            expected = (values[row, column] - np.mean(numbers)) / (np.std(numbers) + 1e-5)
            assert result[row, column] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("how", ["global", "speaker"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e7, -3.3])
def test_a_constant_column_gives_zero(how: str, value: float) -> None:
    values = np.full((9, 2), value, np.float32)
    np.testing.assert_array_equal(normalise(values, ["a", "b", "c"] * 3, how), 0.0)


def test_none_changes_nothing() -> None:
    values = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(normalise(values, ["a"] * 5, "none"), values)


def test_mistakes_are_named() -> None:
    values = np.zeros((4, 2), np.float32)
    with pytest.raises(FeatureError, match=r"unknown normalisation 'client'\. Known: global, speaker, none"):
        normalise(values, ["a"] * 4, "client")
    with pytest.raises(FeatureError, match=r"\(4, 2\) with 3 speakers"):
        normalise(values, ["a"] * 3, "global")
    for how, reference in [("speaker", np.ones(4, bool)), ("global", np.ones(3, bool)), ("global", np.zeros(4, bool))]:
        with pytest.raises(FeatureError, match="a reference goes with 'global'"):
            normalise(values, ["a"] * 4, how, reference)
