"""Attacks on how inputs go together, on people of one mean and one spread."""

from __future__ import annotations

import numpy as np
import pytest
from test_reading_inputs import INPUTS, People, auxiliary_of, network, side

from fl_privacy.attacks.attribute.batch_covariance import BatchCovariance
from fl_privacy.attacks.attribute.input_covariance import InputCovariance
from fl_privacy.attacks.base import Auxiliary, Examples
from fl_privacy.attacks.score import run_attack
from fl_privacy.errors import UserError
from fl_privacy.updates import Update, find_layers


class Linked(People):
    """Two features go together in one sex, against each other in the other; else nothing tells."""

    def __init__(self, seed: int, speakers: int, prefix: str, effect: float = 1.0) -> None:
        super().__init__(seed, speakers, prefix, effect=0.0)
        rng = np.random.default_rng(seed + 50)
        for i, male in enumerate(self.male):
            x = rng.normal(size=(40, INPUTS)).astype(np.float32)
            x[:, :2] *= 4
            x[:, 1] = effect * (2 * male - 1) * x[:, 0] + (1 - effect) * x[:, 1]
            self.features[i] = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
            self.features[i][:, :2] *= 4


def auc(kind: type, update_kind: str, effect: float = 1.0) -> float:
    from sklearn.metrics import roc_auc_score

    attacker, victims = Linked(1, 12, "a", effect), Linked(2, 12, "v", effect)
    own = side(attacker, network(1), kind=update_kind)
    private = side(victims, network(2), kind=update_kind)
    labels = np.array([row["gender"] == "male" for row in own.rows]).astype(np.int64)
    scores = run_attack(kind(rank=8), own, private, labels, auxiliary_of(attacker, own), permutations=1, seed=0).scores
    return float(roc_auc_score([row["gender"] == "male" for row in private.rows], scores))


def test_what_goes_together_is_told_across_initialisations():
    assert auc(InputCovariance, "gradient") > 0.9
    assert auc(BatchCovariance, "gradient") > 0.95


def test_a_weight_difference_serves_the_rows_and_not_the_batch():
    assert auc(InputCovariance, "delta") > 0.9
    assert auc(BatchCovariance, "delta") == 0.5


def ready(rank: int = 3) -> tuple[InputCovariance, Examples]:
    rng = np.random.default_rng(0)
    examples = Examples(
        (rng.normal(size=(30, 6)) * [5, 4, 3, 1, 1, 1]).astype(np.float32),
        np.zeros(30, np.int64),
        tuple("ab" * 15),
        np.tile([0, 1], 15),
    )
    attack = InputCovariance(rank=rank)
    attack.prepare(Auxiliary(("a", "b"), ("x", "y"), examples))
    return attack, examples


def gradient(weight: np.ndarray) -> Update:
    return Update(1, "0", "gradient", 1.0, {"w.weight": weight, "w.bias": np.ones(len(weight), np.float32)})


@pytest.mark.parametrize("scale", [1.0, -1e-25, 1e12])
def test_the_representation_is_the_mean_of_products_of_unit_rows(scale):
    attack, examples = ready()
    weight = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    weight[3] = 0  # a unit that no example reaches
    axes = np.linalg.svd(examples.features.astype(float), full_matrices=False)[2][:3]
    slow = np.zeros((3, 3))
    for row in weight[[0, 1, 2, 4, 5, 6]].astype(float):
        slow += np.outer(axes @ row, axes @ row) / (row @ row)
    slow /= np.trace(slow)
    update = gradient((weight * np.float32(scale)).astype(np.float32))
    read = attack.read(update, find_layers(update.shapes)[0])
    root = np.sqrt(2)
    expected = [slow[0, 0], root * slow[0, 1], root * slow[0, 2], slow[1, 1], root * slow[1, 2], slow[2, 2]]
    signs = np.sign(expected) * np.sign(read)  # an axis may point either way
    np.testing.assert_allclose(np.abs(read), np.abs(expected), rtol=1e-4)
    assert signs[1] * signs[2] * signs[4] > 0
    assert np.linalg.norm(read) == pytest.approx(np.linalg.norm(slow), rel=1e-4)


def test_zeros_say_nothing():
    attack, _ = ready()
    update = gradient(np.zeros((7, 6), np.float32))
    assert np.isnan(attack.read(update, find_layers(update.shapes)[0])).all()


@pytest.mark.parametrize("rank", [0, 1.5, True])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(UserError, match="rank must be"):
        InputCovariance(rank=rank)
