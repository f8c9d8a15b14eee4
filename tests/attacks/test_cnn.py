from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_federation import federation

from fl_privacy.attacks import Auxiliary, make_attacks
from fl_privacy.attacks.attribute import PublishedCNN, cnn
from fl_privacy.attacks.attribute._standardise import standards
from fl_privacy.attacks.attribute.cnn_speed import measure_speed
from fl_privacy.attacks.base import on_layers
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.errors import UserError
from fl_privacy.updates import Update, find_layers

SHAPES = {"fc1.weight": (16, 9), "fc1.bias": (16,), "fc2.weight": (3, 16), "fc2.bias": (3,)}


def draw(n: int, seed: int, classes: int = 2, effect: float = 1.0) -> tuple[list[Update], np.ndarray, Auxiliary]:
    """Updates whose first layer leans towards a pattern of their class."""
    rng = np.random.default_rng(seed)
    patterns = {
        name: np.random.default_rng(99).normal(size=(classes, *shape)) * effect * ("fc1" in name)
        for name, shape in SHAPES.items()
    }
    labels = rng.permutation(n) % classes
    made = [
        Update(
            1,
            str(i),
            "gradient",
            1.0,
            {n: (rng.normal(size=s) + patterns[n][c]).astype(np.float32) for n, s in SHAPES.items()},
        )
        for i, c in enumerate(labels)
    ]
    return made, labels, Auxiliary(tuple(map(str, range(n))), tuple("abcde"[:classes]))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores[labels == 1][:, None] > scores[labels == 0]))


def test_it_learns_what_there_is_to_learn_and_nothing_from_noise():
    own, private = draw(200, 0), draw(100, 1)
    found = PublishedCNN(epochs=10, dropout=0.0).fit(*own).decision_function(private[0])
    assert found.shape == (100,)
    assert auc(found, private[1]) > 0.9
    noise = draw(200, 0, effect=0.0)
    assert 0.3 < auc(PublishedCNN(epochs=10).fit(*noise).decision_function(private[0]), private[1]) < 0.7


def test_of_three_classes_each_update_has_a_distribution():
    own, (private, labels, _) = draw(240, 2, classes=3), draw(90, 3, classes=3)
    scores = PublishedCNN(epochs=12, dropout=0.0).fit(*own).decision_function(private)
    assert scores.shape == (90, 3)
    np.testing.assert_allclose((np.exp(scores) / 3).sum(axis=1), 1, rtol=1e-5)
    assert (scores.argmax(axis=1) == labels).mean() > 0.7


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_streams_alone():
    own, (private, _, _) = draw(60, 0), draw(20, 1)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again, other = (
        PublishedCNN(["fc1", "fc2"], epochs=2, seed=s).fit(*own).decision_function(private) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).min() > 0
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_fusion_is_the_mean_of_probabilities_weighted_by_numbers_of_weights():
    own, (private, _, _) = draw(60, 0), draw(20, 1)
    alone = [PublishedCNN([name], epochs=2).fit(*own).decision_function(private) for name in ("first", "last")]
    fused = PublishedCNN(["first", "last"], epochs=2).fit(*own).decision_function(private)
    p = [1 / (1 + np.exp(-scores)) for scores in alone]
    expected = (p[0] * 16 * 9 + p[1] * 3 * 16) / (16 * 9 + 3 * 16)
    np.testing.assert_allclose(1 / (1 + np.exp(-fused)), expected, rtol=1e-5)


def test_coordinates_are_standardised_by_the_attackers_own_updates():
    own, private = draw(50, 0)[0], draw(5, 1)[0]
    own = [replace(u, arrays={n: 300 + 1e-3 * a for n, a in u.arrays.items()}) for u in own]
    own[7] = replace(own[7], arrays={**own[7].arrays, "fc1.bias": np.full(16, np.nan, np.float32)})
    (standard,), finite = standards(own, find_layers(SHAPES)[:1])
    assert finite.tolist() == [i != 7 for i in range(50)]
    for place, name in enumerate(("fc1.weight", "fc1.bias")):
        rows = np.array([u.arrays[name] for i, u in enumerate(own) if i != 7], dtype=np.float64)
        theirs = np.array([u.arrays[name] for u in private], dtype=np.float64)
        expected = (theirs - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-5)
        np.testing.assert_allclose(standard.read(private)[place], expected, rtol=1e-3)


class Counted(Mapping[str, np.ndarray]):
    """Arrays that are made anew when they are read, as from a file; counts how many live at once."""

    alive = most = read = 0

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name].copy()
        Counted.alive += 1
        Counted.read += 1
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(array, self._gone)
        return array

    @staticmethod
    def _gone() -> None:
        Counted.alive -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays


def test_updates_are_read_batch_by_batch_and_not_kept():
    own, labels, auxiliary = draw(200, 0)
    counted = [replace(u, arrays=Counted(u.arrays), model=SHAPES) for u in own]
    gc.collect()
    Counted.alive = Counted.most = Counted.read = 0
    attack = PublishedCNN(epochs=3).fit(counted, labels, auxiliary)
    scores = attack.decision_function(counted)
    assert Counted.most <= 4  # of 400 arrays
    # Two arrays an update: once for the means, once an epoch, once to score (and one look at a shape for each array).
    assert Counted.read == 2 * 200 * (1 + 3 + 1) + 2
    np.testing.assert_array_equal(scores, PublishedCNN(epochs=3).fit(own, labels, auxiliary).decision_function(own))


def replay(losses, uars, schedule, count_from):
    """The schedule, slowly: rate of each epoch, kept epoch, last epoch."""
    rates, rate, lowest, bad = [], 1e-4, np.inf, 0
    best, kept = -1.0, None
    for epoch, (loss, uar) in enumerate(zip(losses, uars, strict=True), start=1):
        rates.append(rate)
        if loss < lowest * (1 - 1e-4):
            lowest, bad = loss, 0
        else:
            bad += 1
        if bad > 3:
            rate, bad = max(rate * 0.2, 1e-6), 0
        if epoch > count_from:
            if uar > best:
                best, kept = uar, epoch
            elif epoch - kept >= schedule.patience:
                return rates, kept, epoch
    return rates, kept, schedule.epochs


@pytest.mark.parametrize(
    ("generation", "epochs", "length", "count_from"),
    [("B", None, 40, 30), ("C", None, 50, 30), ("B", 8, 8, 6), ("B", 1, 1, 0)],
)
def test_the_schedule_is_the_published_one(generation, epochs, length, count_from, caplog):
    own = draw(40, 5, effect=0.0)
    with caplog.at_level(logging.INFO, "fl_privacy"):
        attack = PublishedCNN(["last"], generation, epochs=epochs).fit(*own)
    (history,), (kept,) = attack.history_, attack.kept_epochs_
    rates, best, last = replay(
        [e.validation_loss for e in history], [e.validation_uar for e in history], attack.schedule, count_from
    )
    assert attack.schedule.epochs == length
    np.testing.assert_allclose([e.learning_rate for e in history], rates)
    assert (kept, len(history)) == (best, last)
    assert len(caplog.records) == last
    assert "epoch 1 of" in caplog.text
    if epochs is None:
        assert len(set(rates)) > 1  # on noise the rate does fall
        assert count_from < kept <= last


def test_the_kept_network_is_that_of_the_best_epoch():
    own = draw(60, 6, effect=0.3)
    attack = PublishedCNN(epochs=8).fit(*own)
    (history,), (kept,) = attack.history_, attack.kept_epochs_
    assert kept > 6
    shorter = PublishedCNN(epochs=kept)
    # Up to the kept epoch both do the same; the shorter keeps its last if that is the best of those that count.
    assert [e.validation_uar for e in shorter.fit(*own).history_[0]] == [e.validation_uar for e in history[:kept]]
    if shorter.kept_epochs_ == (kept,):
        np.testing.assert_array_equal(shorter.decision_function(own[0]), attack.decision_function(own[0]))


def test_a_transposed_layer_is_the_same_layer():
    own, labels, auxiliary = draw(40, 0)

    def turned(update: Update) -> Update:
        arrays = dict(update.arrays)
        return replace(update, arrays=arrays | {"fc1.weight": np.ascontiguousarray(arrays["fc1.weight"].T)})

    scores = PublishedCNN(epochs=2).fit(own, labels, auxiliary).decision_function(own)
    keras = [turned(u) for u in own]
    again = PublishedCNN(epochs=2).fit(keras, labels, auxiliary).decision_function(keras)
    np.testing.assert_array_equal(scores, again)


def test_a_layer_without_bias():
    own, labels, auxiliary = draw(40, 0)
    bare = [replace(u, arrays={n: a for n, a in u.arrays.items() if n == "fc1.weight"}) for u in own]
    assert np.isfinite(PublishedCNN(epochs=1).fit(bare, labels, auxiliary).decision_function(bare)).all()


def test_updates_without_the_layer_or_without_numbers_neither_teach_nor_score():
    own, labels, auxiliary = draw(60, 0)
    private = draw(30, 1)[0]
    nothing = {"fc2.weight": own[0].arrays["fc2.weight"], "fc2.bias": own[0].arrays["fc2.bias"]}

    def spoilt(updates: list[Update]) -> list[Update]:
        made = [replace(u, model=SHAPES) for u in updates]
        made[3] = replace(made[3], arrays=nothing)
        made[5] = replace(made[5], arrays={**made[5].arrays, "fc1.weight": np.full((16, 9), np.inf, np.float32)})
        return made

    rest = [i for i in range(60) if i not in (3, 5)]
    attack = PublishedCNN(epochs=2).fit(spoilt(own), labels, auxiliary)
    scores = attack.decision_function(spoilt(private))
    clean = PublishedCNN(epochs=2).fit([own[i] for i in rest], labels[rest], auxiliary)
    expected = clean.decision_function(private)
    assert scores[3] == scores[5] == 0
    others = [i for i in range(30) if i not in (3, 5)]
    np.testing.assert_allclose(scores[others], expected[others], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="no update holds all of layer fc1"):
        attack.decision_function([replace(private[0], arrays=nothing, model=SHAPES)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "name at least one layer"),
        ({"layers": ["fc9"]}, "no layer 'fc9'"),
        ({"generation": "D"}, "generation must be one of B, C"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PublishedCNN(**settings).fit(*draw(20, 0))


def test_what_it_cannot_learn_from_is_refused():
    own, labels, auxiliary = draw(20, 0)
    with pytest.raises(UserError, match="this attribute is a number"):
        PublishedCNN().fit(own, np.linspace(0, 1, 20), replace(auxiliary, classes=()))
    with pytest.raises(UserError, match="of one class only"):
        PublishedCNN().fit(own, np.zeros(20, np.int64), auxiliary)
    with pytest.raises(UserError, match="4 update.* at least 5"):
        PublishedCNN().fit(own[:4], labels[:4], auxiliary)


def test_a_sample_of_batches_tells_how_long_the_whole_takes():
    own = draw(60, 0)
    attack = PublishedCNN(epochs=20)
    speed = measure_speed(attack, *own, seconds=0.3)
    assert not hasattr(attack, "networks_")
    assert speed.updates >= 20
    assert speed.trained > 0
    assert speed.of_fit(100, 7) == pytest.approx(100 * speed.read + 7 * (80 * speed.trained + 20 * speed.scored))
    assert measure_speed(attack, *own, seconds=0).updates == 20  # one batch at least


def test_in_an_audit_it_is_not_trained_on_permuted_labels(tmp_path):
    (own, own_labels), (private, labels) = (
        federation(tmp_path / n, i, effect=3.0, name=n) for i, n in enumerate(("own", "private"))
    )

    ((_, attack),) = make_attacks(on_layers([{"name": "cnn", "epochs": 1}], ["0"]))
    audit = evaluate(
        [attack], private, shadow=own, labels=labels, shadow_labels=own_labels, attribute="gender", permutations=3
    )
    controls = {c.control: c for c in audit.controls if c.of == "PublishedCNN"}
    assert "permuted-auxiliary-labels" not in controls
    assert controls["permuted-private-labels"].p_value > 0
    assert "PublishedCNN" in audit.table()


def test_steps_are_those_of_the_published_adam():
    """Three steps by the textbook: 1e-4, betas .9 and .98, eps 1e-9, L2 1e-4 in the gradient."""
    own, labels, _ = draw(20, 0)
    (standard,), _ = standards(own, find_layers(SHAPES)[:1])
    arrays = standard.read(own)
    torch.manual_seed(0)
    network, optimiser = cnn.start_network(standard, 2, 0.0, torch.device("cpu"))
    theta = {name: p.detach().double().clone() for name, p in network.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in theta.items()}
    second = {name: torch.zeros_like(p) for name, p in theta.items()}
    for step in range(1, 4):
        network.train()
        log = network(*map(torch.from_numpy, arrays))
        loss = -log[torch.arange(20), torch.from_numpy(labels)].mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for (name, p), raw in zip(theta.items(), gradients, strict=True):
            gradient = raw.double() + 1e-4 * p
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.98 * second[name] + 0.02 * gradient**2
            p -= 1e-4 * (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.98**step)).sqrt() + 1e-9)
        assert cnn.train_step(network, optimiser, arrays, labels) == pytest.approx(float(loss.detach()), rel=1e-5)
    norm = "convolutions.8.bias"  # the bias before a batch norm has no gradient but rounding, which Adam blows up
    for name, p in network.named_parameters():
        if name != norm:
            torch.testing.assert_close(p.double(), theta[name], rtol=0, atol=2e-6, msg=name)
