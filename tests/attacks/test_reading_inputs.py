"""Attacks that read inputs off true gradients of the SER network, whose batches the test knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fl_privacy.attacks.architecture import gradient_of
from fl_privacy.attacks.attribute import AffineHull, BatchInputs, ClassWeighted, PrincipalInputs
from fl_privacy.attacks.base import Auxiliary, Examples
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.reconstruction.batch import batch_inputs
from fl_privacy.attacks.score import run_attack
from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.updates import Update, find_layers

INPUTS, CLASSES, BATCH = 40, 4, 8


class People:
    """Speakers whose classes sound differently by sex, and nothing else: their mean over classes is the same."""

    def __init__(self, seed: int, speakers: int, prefix: str, effect: float = 2.0) -> None:
        rng = np.random.default_rng(seed)
        self.male = rng.permutation(speakers) % 2
        self.names = tuple(f"{prefix}{i}" for i in range(speakers))
        shape = np.random.default_rng(99).normal(size=(2, CLASSES, INPUTS))
        shape -= shape.mean(axis=1, keepdims=True)
        centre = np.random.default_rng(98).normal(size=(CLASSES, INPUTS)) * 2
        self.labels = np.tile(np.arange(CLASSES), 10)
        voices = [centre[self.labels] + effect * shape[m][self.labels] for m in self.male]
        self.features = [(v + rng.normal(size=v.shape)).astype(np.float32) for v in voices]

    def examples(self) -> Examples:
        names = tuple(name for name in self.names for _ in self.labels)
        return Examples(
            np.concatenate(self.features), np.tile(self.labels, len(self.names)), names, np.repeat(self.male, 40)
        )


def client_update(network: SERNet, x: np.ndarray, y: np.ndarray, client: str, number: int, kind: str = "gradient"):
    """Return an update as a client with dropout sends it."""
    network.train()
    torch.manual_seed(number)
    loss = functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
    names = [name for name, _ in network.named_parameters()]
    gradient = torch.autograd.grad(loss, list(network.parameters()))
    arrays = {name: g.numpy() for name, g in zip(names, gradient, strict=True)}
    sent = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    return Update(number, client, kind, float(len(x)), arrays, sent=sent)


def network(seed: int) -> SERNet:
    torch.manual_seed(seed)
    return SERNet(INPUTS, CLASSES)


def side(people: People, net: SERNet, rounds: int = 2, kind: str = "gradient") -> Observed:
    updates, rows = [], []
    for number in range(1, rounds + 1):
        for i, name in enumerate(people.names):
            batch = np.random.default_rng([number, i]).permutation(len(people.labels))[:BATCH]
            updates.append(
                client_update(net, people.features[i][batch], people.labels[batch], name, 100 * number + i, kind)
            )
            rows.append({"speaker": name, "gender": "male" if people.male[i] else "female"})
    return Observed(tuple(updates), tuple(rows))


def auxiliary_of(people: People, own: Observed) -> Auxiliary:
    return Auxiliary(tuple(own.speakers), ("female", "male"), people.examples(), gradient_of(network(0)))


@pytest.fixture(scope="module")
def sides():
    attacker, victims = People(1, 12, "a"), People(2, 12, "v")
    # Another initialisation on each side.
    own, private = side(attacker, network(5)), side(victims, network(6))
    return own, private, auxiliary_of(attacker, own), victims


def auc(scores: np.ndarray, private: Observed) -> float:
    male = np.array([row["gender"] == "male" for row in private.rows])
    return float((scores[male][:, None] > scores[~male]).mean())


@pytest.mark.parametrize("make", [AffineHull, ClassWeighted, BatchInputs, PrincipalInputs])
def test_what_the_attribute_makes_of_each_class_is_told(sides, make):
    own, private, auxiliary, _ = sides
    labels = np.array([row["gender"] == "male" for row in own.rows], dtype=np.int64)
    scores = run_attack(make(), own, private, labels, auxiliary, permutations=5, seed=0)
    assert auc(scores.scores, private) > (0.75 if make is ClassWeighted else 0.95)
    assert scores.calibrated == "on 12 held-out speakers"
    assert np.mean([auc(row, private) for row in scores.permuted]) < 0.85


@pytest.mark.parametrize("make", [AffineHull, ClassWeighted, BatchInputs, PrincipalInputs])
def test_without_an_effect_there_is_nothing_to_tell(make):
    values = []
    for seed in range(6):
        attacker, victims = People(10 + seed, 12, "a", 0.0), People(30 + seed, 12, "v", 0.0)
        own, private = side(attacker, network(seed), 1), side(victims, network(50 + seed), 1)
        labels = np.array([row["gender"] == "male" for row in own.rows], dtype=np.int64)
        scores = run_attack(make(), own, private, labels, auxiliary_of(attacker, own), permutations=0, seed=0)
        values.append(auc(scores.scores, private))
    assert 0.3 < np.mean(values) < 0.7


def test_the_hulls_points_are_the_nearest_affine_combinations_of_the_batch(sides):
    own, _, auxiliary, _ = sides
    people = People(1, 12, "a")
    attack = AffineHull()
    attack.fit_transform(own.updates, auxiliary)
    batch = np.random.default_rng([1, 3]).permutation(40)[:BATCH]
    x = people.features[3][batch].astype(np.float64)
    found = attack.read(own.updates[3], find_layers(own.updates[3].shapes)[0]).reshape(CLASSES, INPUTS)
    examples = auxiliary.examples
    for c in range(CLASSES):
        prototype = examples.features[examples.labels == c].mean(axis=0)
        weights = np.linalg.lstsq((x[1:] - x[0]).T, prototype - x[0], rcond=None)[0]
        np.testing.assert_allclose(found[c], x[0] + weights @ (x[1:] - x[0]), rtol=1e-3, atol=1e-3)


def test_the_labels_of_recovered_inputs_are_those_they_had(sides):
    _, private, auxiliary, victims = sides
    attack = BatchInputs()
    attack.fit_transform(private.updates, auxiliary)
    right = total = 0
    for i, update in enumerate(private.updates[:12]):
        layer = find_layers(update.shapes)[0]
        batch = batch_inputs(update.arrays[layer.weight], update.arrays[layer.bias])
        told = attack.labels_of(batch, update, layer)
        for x, label in zip(batch.inputs, told, strict=True):
            distance = np.linalg.norm(victims.features[i] - x, axis=1)
            assert distance.min() < 0.05 * np.linalg.norm(x)
            right += label == victims.labels[int(distance.argmin())]
            total += 1
    assert total > 0.8 * 12 * BATCH
    assert right > 0.95 * total


def test_directions_are_the_signals_of_each_class(sides):
    own, _, auxiliary, _ = sides
    attack = ClassWeighted()
    attack.fit_transform(own.updates, auxiliary)
    update = own.updates[0]
    net = network(0)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in update.sent.items()})
    net.eval()
    examples, rows = auxiliary.examples, []
    for c in range(CLASSES):
        mine = torch.from_numpy(examples.features[examples.labels == c])
        hidden = net.fc1(mine)
        loss = functional.cross_entropy(net.fc3(torch.relu(net.fc2(torch.relu(hidden)))), torch.full((len(mine),), c))
        signal = torch.autograd.grad(loss, hidden)[0].sum(dim=0)
        rows.append((signal / signal.norm()).numpy())
    weight, bias = update.arrays["fc1.weight"], update.arrays["fc1.bias"]
    expected = np.stack(rows) @ weight / np.linalg.norm(bias)
    found = attack.read(update, find_layers(update.shapes)[0]).reshape(CLASSES, INPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [AffineHull, BatchInputs])
def test_a_weight_difference_says_nothing_and_the_log_says_so(make, caplog):
    attacker, victims = People(1, 6, "a"), People(2, 6, "v")
    own, private = side(attacker, network(5), 1, "delta"), side(victims, network(6), 1, "delta")
    labels = np.array([row["gender"] == "male" for row in own.rows], dtype=np.int64)
    scores = run_attack(make(), own, private, labels, auxiliary_of(attacker, own), permutations=3, seed=0)
    assert (scores.scores == 0).all()
    assert (scores.evidence == 0).all()
    assert "reads gradients (FedSGD)" in caplog.text


@pytest.mark.parametrize("make", [AffineHull, ClassWeighted, BatchInputs, PrincipalInputs])
def test_without_examples_they_are_refused(sides, make):
    own, _, auxiliary, _ = sides
    bare = Auxiliary(auxiliary.speakers, auxiliary.classes, None, auxiliary.gradient)
    with pytest.raises(UserError, match="needs the attacker's own examples"):
        make().fit(own.updates, np.arange(len(own.updates)) % 2, bare)


@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_main_directions_are_those_of_the_singular_value_decomposition(sides, kind):
    own, _, auxiliary, _ = sides
    update = Update(1, "a", kind, 1.0, dict(own.updates[0].arrays))
    attack = PrincipalInputs(rank=3)
    attack.prepare(auxiliary)
    right = np.linalg.svd(update.arrays["fc1.weight"].astype(np.float64), full_matrices=False)[2][:3]
    found = attack.read(update, find_layers(update.shapes)[0]).reshape(CLASSES, INPUTS)
    np.testing.assert_allclose(found, attack.prototypes_ @ right.T @ right, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="rank must be a whole number from 1"):
        PrincipalInputs(rank=0)
