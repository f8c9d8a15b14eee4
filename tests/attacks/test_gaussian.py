"""The likelihood ratio under noise of a known size, against the densities written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute.gaussian import GaussianLikelihoodRatio
from fl_privacy.errors import UserError
from fl_privacy.updates import Update

SHAPES = {"fc.weight": (3, 2), "fc.bias": (3,)}
SIZE = 9


def updates(rows: np.ndarray, examples: float | None = 10.0) -> list[Update]:
    made = []
    for i, row in enumerate(rows.astype(np.float32)):
        arrays = {"fc.weight": row[:6].reshape(3, 2), "fc.bias": row[6:]}
        made.append(Update(1, str(i), "gradient", examples, arrays))
    return made


def owners(n: int, classes: int) -> Auxiliary:
    return Auxiliary(tuple(map(str, range(n))), tuple("abc"[:classes]))


def draw(n: int, classes: int, seed: int, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([9, classes])
    centres, mixing = rng.normal(size=(classes, SIZE)), rng.normal(size=(SIZE, SIZE))
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (centres[y] + rng.normal(size=(n, SIZE)) @ mixing) * unit, y


@pytest.mark.parametrize("unit", [1.0, 1e-7])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_ratio_of_the_densities_with_the_noise_in_them(classes, unit):
    """Clean shadows; the covariance about the common mean, as documented, and next to no penalty."""
    x, y = draw(400, classes, 0, unit)
    z = draw(30, classes, 1, unit)[0]
    noise = 0.7 * unit
    z += np.random.default_rng(2).normal(size=z.shape) * noise
    attack = GaussianLikelihoodRatio(noise=noise, C=1e9).fit(updates(x), y, owners(400, classes))
    covariance = np.cov(x.T / unit) + (noise / unit) ** 2 * np.eye(SIZE)
    densities = np.stack(
        [multivariate_normal(x[y == c].mean(axis=0) / unit, covariance).logpdf(z / unit) for c in range(classes)], 1
    )
    found = attack.decision_function(updates(z))
    if classes == 2:
        np.testing.assert_allclose(found, densities[:, 1] - densities[:, 0], atol=1e-3)
    else:
        np.testing.assert_allclose(
            found - found.mean(axis=1, keepdims=True), densities - densities.mean(axis=1, keepdims=True), atol=1e-3
        )


def test_knowing_the_noise_pays():
    """A quiet direction that tells and a loud one that tells: under noise, only the loud one is of use."""
    rng = np.random.default_rng(3)

    def people(n):
        y = np.arange(n) % 2
        x = np.zeros((n, SIZE))
        x[:, 0] = 0.05 * (2 * y - 1) + 0.02 * rng.normal(size=n)
        x[:, 1] = 4.0 * (2 * y - 1) + 4.0 * rng.normal(size=n)
        return x, y

    (x, y), (z, truth) = people(300), people(2000)
    z += rng.normal(size=z.shape)
    auc = {}
    for noise in (0.0, 1.0):
        attack = GaussianLikelihoodRatio(noise=noise, C=1e9).fit(updates(x), y, owners(300, 2))
        auc[noise] = roc_auc_score(truth, attack.decision_function(updates(z)))
    assert auc[1.0] > 0.8
    assert auc[0.0] < auc[1.0] - 0.2


def test_noise_by_the_number_of_examples_and_that_of_the_attackers_own():
    x, y = draw(100, 2, 4)
    z = draw(8, 2, 5)[0]

    def scores(examples, **settings):
        attack = GaussianLikelihoodRatio(**settings).fit(updates(x), y, owners(100, 2))
        return attack.decision_function(updates(z, examples))

    np.testing.assert_allclose(scores(20.0, noise=0.1, noise_examples=8.0), scores(1.0, noise=0.5))
    assert np.abs(scores(5.0, noise_examples=8.0)).sum() < np.abs(scores(20.0, noise_examples=8.0)).sum()
    with pytest.raises(UserError, match=r"round 1: client 0 reported no number of examples"):
        scores(None, noise_examples=8.0)
    # Noise on the attacker's own is taken off its covariance.
    rng = np.random.default_rng(6)
    x, y = draw(4000, 2, 7)
    noisy = x + rng.normal(size=x.shape)
    truth, blurred = (
        GaussianLikelihoodRatio(noise=0.3, shadow_noise=s, C=1e9)
        .fit(updates(rows), y, owners(4000, 2))
        .decision_function(updates(z))
        for rows, s in ((x, 0.0), (noisy, 1.0))
    )
    np.testing.assert_allclose(blurred, truth, rtol=0.35, atol=0.25)


def test_updates_without_the_layer_say_nothing_and_equal_updates_are_no_crash():
    x, y = draw(24, 3, 8)
    lacking = [replace(u, arrays={}, model=SHAPES) if i < 3 else u for i, u in enumerate(updates(x))]
    attack = GaussianLikelihoodRatio().fit(lacking, y, owners(24, 3))
    scores = attack.decision_function(lacking)
    assert (scores[:3] == 0).all()
    assert np.abs(scores[3:]).min() > 0
    same = updates(np.tile(x[:1], (6, 1)))
    attack = GaussianLikelihoodRatio().fit(same, np.arange(6) % 2, owners(6, 2))
    assert np.isfinite(attack.decision_function(updates(x))).all()


@pytest.mark.parametrize("name", ["noise", "noise_examples", "shadow_noise"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_noise_that_cannot_be_is_refused(name, value):
    with pytest.raises(UserError, match=f"GaussianLikelihoodRatio: {name} must be 0 or more"):
        GaussianLikelihoodRatio(**{name: value})


def test_updates_that_are_all_alike_tell_nothing_and_are_no_error():
    x, y = draw(60, 2, seed=3)
    attack = GaussianLikelihoodRatio(noise=0.1).fit(updates(0 * x), y, owners(60, 2))
    assert not attack.decision_function(updates(x)).any()
