"""The partial inversion of the last layer, and its prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_privacy.attacks.inversion import Inversion, Prior, invert_dvector, map_dvector
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import SincNet, SincNetSize

TINY = SincNetSize(window=480, sinc_filters=4, sinc_length=31, convolutions=((3, 5),), dense=(12,))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = SincNet(TINY, 5)
    torch.nn.init.normal_(network.last.weight), torch.nn.init.normal_(network.last.bias, std=0.1)
    return SpeakerClassifier(network, "abcde", window=480)


def test_from_zero_it_reads_a_row_of_the_classifier(classifier):
    """The first step is along W_t - sum_j p_j W_j."""
    weight, bias = (p.double().numpy() for p in classifier.network.last.parameters())
    p = np.exp(bias) / np.exp(bias).sum()
    first = invert_dvector(
        classifier, range(5), Inversion(scale="absolute", iterations=1, threshold=0.0), step_size=0.01
    )
    for identity, found in enumerate(first):
        np.testing.assert_allclose(found.wave, 0.01 * (weight[identity] - p @ weight), rtol=1e-4, atol=1e-7)
    published = Inversion("one-minus-p", scale="absolute", iterations=1, threshold=0.0)
    for identity, found in enumerate(invert_dvector(classifier, range(5), published, step_size=0.01)):
        np.testing.assert_allclose(found.wave, p[identity] * first[identity].wave, rtol=1e-4, atol=1e-7)
    assert all(found.probability > 0.99 for found in invert_dvector(classifier, range(5)))


def test_the_most_probable_dvector_is_an_optimum(classifier):
    rng = np.random.default_rng(0)
    aux = (rng.standard_normal((200, 3)) @ rng.standard_normal((3, 12)) * 2 + rng.standard_normal(12)).astype(
        np.float32
    )
    prior = Prior.fit(aux, share=0.999)
    assert len(prior.directions) == 3
    covariance = prior.directions.T @ prior.directions
    np.testing.assert_allclose(covariance, np.cov(aux.T), atol=0.02 * np.abs(covariance).max())
    settings = Inversion(step="adam", scale="absolute", iterations=1200, patience=300, threshold=0.0)
    found = map_dvector(classifier, range(5), prior, settings, weight=0.3, step_size=0.02)
    layer = torch.nn.Linear(12, 5).double()
    layer.load_state_dict(classifier.network.last.state_dict())
    for identity, one in enumerate(found):
        z, *_ = np.linalg.lstsq(prior.directions.T, one.wave - prior.mean, rcond=None)
        assert np.abs(z @ prior.directions + prior.mean - one.wave).max() < 1e-3, "it stays among d-vectors"
        free = torch.from_numpy(z).double().requires_grad_()
        v = torch.from_numpy(prior.mean).double() + free @ torch.from_numpy(prior.directions).double()
        cost = -torch.log_softmax(layer(v), 0)[identity] + 0.15 * free.square().sum()
        (slope,) = torch.autograd.grad(cost, free)
        assert slope.abs().max() < 0.02
        assert one.cost == pytest.approx(float(cost.detach()), abs=1e-4)
    heavy = map_dvector(classifier, range(5), prior, settings, weight=1e4, step_size=1e-3)
    assert max(np.abs(one.wave - prior.mean).max() for one in heavy) < 0.02


def test_bad_priors_are_refused(classifier):
    good = np.random.default_rng(0).standard_normal((9, 12)).astype(np.float32)
    for bad, said in [(good[:2], "three"), (np.ones((9, 12), np.float32), "differ"), (good * np.nan, "finite")]:
        with pytest.raises(UserError, match=said):
            Prior.fit(bad)
    with pytest.raises(UserError, match="of 11 numbers, the classifier's have 12"):
        map_dvector(classifier, [0], Prior.fit(good[:, 1:]))
    with pytest.raises(UserError, match="weight"):
        map_dvector(classifier, [0], Prior.fit(good), weight=-1)
    with pytest.raises(UserError, match="no class 5"):
        invert_dvector(classifier, [5])
    with pytest.raises(UserError, match="2 starts for 1"):
        invert_dvector(classifier, [0], starts=np.zeros((2, 12), np.float32))
