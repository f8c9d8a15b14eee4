"""Gradient reversal, against the same network written out with autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import AVG, CLASSES, INPUTS, SGD, Work, features_of
from torch.nn import functional

from fl_privacy.defenses import make_defenses
from fl_privacy.errors import UserError
from fl_privacy.training.local_model import initial_network

EXAMPLES = 20
PRIVATE = torch.arange(EXAMPLES) % 2
HALF_KNOWN = torch.where(torch.arange(EXAMPLES) % 3 == 0, -1, PRIVATE)


def entry(**settings) -> dict:
    return {"name": "adversarial", **settings}


def by_hand(work: Work, head: dict[str, torch.Tensor], private: torch.Tensor, strength: float) -> dict[str, np.ndarray]:
    """Gradients of task and adversary taken apart: the network's own is task - strength x adversary's."""
    w = {n: torch.from_numpy(a.copy()).requires_grad_() for n, a in work.start.arrays.items() if n.startswith("fc")}
    head = {n: t.clone().requires_grad_() for n, t in head.items()}
    sequence = np.random.SeedSequence([work.settings.seed, 1, 0])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    x, y = features_of(0)
    batch = torch.randperm(len(x))[:8]
    one = functional.dropout(torch.relu(functional.linear(x[batch], w["fc1.weight"], w["fc1.bias"])), 0.3)
    two = functional.dropout(torch.relu(functional.linear(one, w["fc2.weight"], w["fc2.bias"])), 0.2)
    task = functional.cross_entropy(functional.linear(two, w["fc3.weight"], w["fc3.bias"]), y[batch])
    own = private[batch]
    known = own >= 0
    told = functional.linear(two, head["weight"], head["bias"])[known]
    adversary = functional.cross_entropy(told, own[known])
    slopes = torch.autograd.grad(task, list(w.values()), retain_graph=True)
    against = torch.autograd.grad(adversary, list(w.values()), retain_graph=True, allow_unused=True)
    found = {n: (s - strength * (0 if a is None else a)).numpy() for n, s, a in zip(w, slopes, against, strict=True)}
    for name, slope in zip(head, torch.autograd.grad(adversary, list(head.values())), strict=True):
        found[f"adversary.{name}"] = slope.numpy()
    return found


@pytest.mark.parametrize("private", [PRIVATE, HALF_KNOWN], ids=["known", "in part"])
@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_a_shared_head_is_trained_and_its_gradient_turned_round(strength, private):
    work = Work(entry(strength=strength))
    start = work.start.tensors
    expected = by_hand(work, {"weight": start["adversary.weight"], "bias": start["adversary.bias"]}, private, strength)
    found = work.update(private=private)
    assert list(found)[-2:] == ["adversary.weight", "adversary.bias"]
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_shared_head_gives_the_attribute_away():
    """What the documentation warns of: the gradient of its bias is the predicted less the true distribution."""
    for value in (0, 1):
        found = Work(entry()).update(private=torch.full((EXAMPLES,), value))
        assert found["adversary.bias"][value] < 0 < found["adversary.bias"][1 - value]


def test_a_local_head_is_kept_and_learns():
    work = Work(entry(head="local", strength=2.0))
    assert not any("adversary" in name for name in work.start.arrays)
    rng = np.random.default_rng(np.random.SeedSequence([SGD.seed, 1, 0]).spawn(1)[0])
    bound = 1 / np.sqrt(128)
    head = {
        name: torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
        for name, shape in (("weight", (2, 128)), ("bias", (2,)))
    }
    expected = by_hand(work, head, PRIVATE, 2.0)
    found = work.update(private=PRIVATE)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-6, err_msg=name)
    for name, array in head.items():
        own = work.memories[0][f"adversarial.{name}"]
        np.testing.assert_allclose(own, array - 0.1 * expected[f"adversary.{name}"], rtol=1e-4, atol=1e-6)
    first = work.memories[0]["adversarial.weight"]
    work.update(0, 2, private=PRIVATE)
    assert (work.memories[0]["adversarial.weight"] != first).any()


@pytest.mark.parametrize("head", ["shared", "local"])
@pytest.mark.parametrize("settings", [SGD, AVG])
def test_whose_attribute_is_not_known_trains_as_ever(head, settings):
    found, plain = Work(entry(head=head), settings=settings).update(), Work(settings=settings).update()
    for name, array in plain.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-6, err_msg=name)
    if head == "shared" and settings is SGD:
        assert not found["adversary.weight"].any()


def test_the_adversary_loses_what_it_could_tell():
    """Over many steps the representation tells less of an attribute that the inputs show plainly."""
    x, y = features_of(1, 200)
    private = (x[:, 0] > 0).long()

    def tells(strength: float) -> float:
        settings = replace(AVG, batch_size=50, local_epochs=60)
        work = Work(entry(strength=strength, head_learning_rate=0.5), settings=settings, dropout=0.0)
        trained = work.answer(data=(x, y), private=private)
        w = {n: torch.from_numpy(a) for n, a in trained.items()}
        hidden = torch.relu(functional.linear(x, w["fc1.weight"], w["fc1.bias"]))
        hidden = torch.relu(functional.linear(hidden, w["fc2.weight"], w["fc2.bias"]))
        told = functional.linear(hidden, w["adversary.weight"], w["adversary.bias"]).argmax(1)
        return float((told == private).float().mean())

    assert tells(1e-6) > 0.95
    assert tells(5.0) < 0.8


def test_predictions_leave_no_batch_behind():
    work = Work(entry())
    work.model.load(work.start)
    assert work.model.predict(features_of(0)[0]).shape == (EXAMPLES,)
    assert work.model.network._adversarial_tap._held is None


def test_the_representation_may_be_another_layers_input():
    network = initial_network(INPUTS, CLASSES, 0.2, make_defenses([entry(layer="second")]), 1)
    assert network.adversary.weight.shape == (2, 256)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0}, "strength must be positive"),
        ({"head": "none"}, "head must be 'shared' or 'local'"),
        ({"classes": 1}, "classes must be a whole number from 2"),
        ({"head_learning_rate": -1}, "head_learning_rate must be positive"),
        ({"layer": "fc9"}, "no layer 'fc9'"),
        ({"layer": "all"}, "must be one torch.nn.Linear"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        initial_network(INPUTS, CLASSES, 0.2, make_defenses([entry(**settings)]), 1)


def test_an_attribute_of_more_values_is_refused():
    with pytest.raises(UserError, match="value number 2, beyond 2"):
        Work(entry()).update(private=PRIVATE + 1)
