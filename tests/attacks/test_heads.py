from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestCentroid

from fl_privacy.attacks.heads import make_head
from fl_privacy.errors import UserError


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 3, d) + rng.normal(size=d)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 50)])
def test_ridge_of_a_number_is_scikit_learns(n, d):
    x, z = rows(n, d), rows(7, d, 1)
    y = np.random.default_rng(2).normal(30, 5, n)
    found = make_head("ridge", 0.5).fit(x, y[None], 0).scores(z)
    expected = SklearnRidge(alpha=4 / 0.5).fit(x, y).predict(z)
    np.testing.assert_allclose(found[0], expected, rtol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 50)])
def test_ridge_of_two_classes_is_regression_cut_midway_between_the_classes(n, d):
    x, z = rows(n, d), rows(7, d, 1)
    y = np.arange(n) % 3 // 2
    regression = SklearnRidge(alpha=4 / 0.5).fit(x, 2.0 * y - 1)
    fitted = regression.predict(x)
    middle = (fitted[y == 0].mean() + fitted[y == 1].mean()) / 2
    found = make_head("ridge", 0.5).fit(x, y[None], 2).scores(z)[0]
    np.testing.assert_allclose(found, regression.predict(z) - middle, atol=1e-9)


def test_ridge_has_the_direction_of_linear_discriminant_analysis():
    """Next to no penalty: the direction is that of LDA, which knows the covariance within classes only."""
    x, z = rows(200, 6), rows(50, 6, 1)
    y = (x[:, 0] + np.random.default_rng(3).normal(size=200) > x[:, 0].mean()).astype(int)
    found = make_head("ridge", 1e9).fit(x, y[None], 2).scores(z)[0]
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y).decision_function(z)
    assert np.corrcoef(found, lda)[0, 1] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["ridge", "lda", "logistic", "nearest-centroid"])
@pytest.mark.parametrize("classes", [2, 4])
def test_several_columns_of_labels_are_as_each_by_itself(name, classes):
    x, z = rows(48, 10), rows(9, 10, 1)
    rng = np.random.default_rng(4)
    labels = np.stack([rng.permutation(48) % classes for _ in range(3)])
    head = make_head(name, 0.1)
    together = head.fit(x, labels, classes).scores(z)
    assert together.shape == ((3, 9) if classes == 2 else (3, 9, classes))
    for column, scores in zip(labels, together, strict=True):
        np.testing.assert_allclose(head.fit(x, column[None], classes).scores(z)[0], scores, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_nearest_centroid_is_scikit_learns(classes):
    x, z = rows(60, 7), rows(30, 7, 1)
    y = np.random.default_rng(3).permutation(60) % classes
    x += y[:, None]
    scores = make_head("nearest-centroid", 1.0).fit(x, y[None], classes).scores(z)[0]
    named = (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)
    np.testing.assert_array_equal(named, NearestCentroid().fit(x, y).predict(z))


@pytest.mark.parametrize("name", ["ridge", "lda", "logistic", "nearest-centroid"])
def test_four_classes_that_are_apart_are_told_apart(name):
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(4, 12)) * 3
    y, truth = np.arange(80) % 4, np.arange(40) % 4
    x, z = centres[y] + rng.normal(size=(80, 12)), centres[truth] + rng.normal(size=(40, 12))
    scores = make_head(name, 1.0).fit(x, y[None], 4).scores(z)[0]
    assert (scores.argmax(axis=1) == truth).mean() > 0.95


def test_logistic_is_scikit_learns():
    x, z = rows(40, 5), rows(9, 5, 1)
    y = np.arange(40) % 2
    found = make_head("logistic", 0.3).fit(x, y[None], 2).scores(z)[0]
    expected = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000).fit(x, y).decision_function(z)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["lda", "logistic"])
def test_a_class_that_is_missing_from_the_training_scores_lowest(name):
    x, y = rows(40, 5), np.arange(40) % 2 * 2
    scores = make_head(name, 1.0).fit(x, y[None], 3).scores(x)[0]
    assert (scores.argmin(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("name", "C", "message"), [("svm", 1.0, "ridge, lda, logistic"), ("ridge", 0.0, "C must be positive, not 0")]
)
def test_what_there_is_not_is_refused(name, C, message):
    with pytest.raises(UserError, match=message):
        make_head(name, C)


def test_numbers_are_a_matter_of_regression():
    with pytest.raises(UserError, match="ridge"):
        make_head("logistic", 1.0).fit(rows(5, 2), np.arange(5.0)[None], 0)
