"""Frozen and personal layers, over federations by hand and through the client."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import AVG, CLASSES, INPUTS, SGD, Work, features_of, plain_network
from safetensors.numpy import save_file
from torch.nn import functional

from fl_privacy.defenses import make_defenses
from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import initial_network

BOTH = pytest.mark.parametrize("settings", [SGD, AVG], ids=["fedsgd", "fedavg"])
FIRST = ("fc1.weight", "fc1.bias")
NOISE = {"name": "client-dp", "placement": "client", "clipping_norm": 1.0, "noise_multiplier": 1.0}


def freeze(**settings) -> dict:
    return {"name": "freeze", **settings}


def federate(work: Work, rounds: int, clients: int = 2) -> list[Flat]:
    """The model after each round: the mean of the updates, a step along it in FedSGD."""
    models = [work.start]
    for server_round in range(1, rounds + 1):
        updates = [work.update(client, server_round, sent=models[-1]) for client in range(clients)]
        rate = -work.settings.learning_rate if work.settings.algorithm == "fedsgd" else 1.0
        after = Flat(work.model.shapes)
        after.fill({n: a + rate * np.mean([u[n] for u in updates], axis=0) for n, a in models[-1].arrays.items()})
        models.append(after)
    return models


@BOTH
def test_frozen_layers_keep_their_bytes_over_a_federation(settings):
    models = federate(Work(freeze(layers=["first", "fc3"]), settings=settings), 4)
    for name, array in models[-1].arrays.items():
        same = array.tobytes() == models[0].arrays[name].tobytes()
        assert same == (not name.startswith("fc2")), name


@BOTH
def test_noise_of_a_defense_before_it_does_not_move_them(settings):
    models = federate(Work(NOISE, freeze(), settings=settings), 3)
    for name in FIRST:
        assert models[-1].arrays[name].tobytes() == models[0].arrays[name].tobytes()
    assert (models[-1].arrays["fc2.weight"] != models[0].arrays["fc2.weight"]).all()


def test_a_public_front_end_is_where_the_federation_begins(tmp_path):
    rng = np.random.default_rng(0)
    public = {"fc1.weight": rng.normal(size=(256, INPUTS)), "fc1.bias": rng.normal(size=256), "head": np.zeros(2)}
    path = tmp_path / "public.safetensors"
    save_file({name: array.astype(np.float32) for name, array in public.items()}, path)
    plain, work = Work(), Work(freeze(checkpoint=str(path)))
    for name, array in work.start.arrays.items():
        expected = public[name].astype(np.float32) if name in FIRST else plain.start.arrays[name]
        np.testing.assert_array_equal(array, expected)
    assert not any(work.update()[name].any() for name in FIRST)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "public.safetensors"
    with pytest.raises(UserError, match="there is no file"):
        make_defenses([freeze(checkpoint=str(path))])
    cases = [
        ({"fc1.weight": np.zeros((256, INPUTS), np.float32)}, "has no array 'fc1.bias'"),
        (
            {"fc1.weight": np.zeros((256, 9), np.float32), "fc1.bias": np.zeros(256, np.float32)},
            f"fc1.weight of 256 x 9, the model's is 256 x {INPUTS}",
        ),
    ]
    for arrays, message in cases:
        save_file(arrays, path)
        with pytest.raises(UserError, match=message):
            initial_network(INPUTS, CLASSES, 0.2, make_defenses([freeze(checkpoint=str(path))]), 1)
    path.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        initial_network(INPUTS, CLASSES, 0.2, make_defenses([freeze(checkpoint=str(path))]), 1)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([freeze(layers=["fc9"])], "no layer 'fc9'"),
        ([freeze(layers=["fc1", "fc2", "last"])], "nothing is left to train"),
        ([{"name": "share-upper", "layers": ["all"]}], "nothing is left to share"),
        ([freeze(), {"name": "share-upper", "layers": ["fc1"]}], "cannot be personal and frozen"),
    ],
)
def test_layers_that_cannot_be_are_refused_when_the_network_is_made(entries, message):
    with pytest.raises(UserError, match=message):
        initial_network(INPUTS, CLASSES, 0.2, make_defenses(entries), 1)


@pytest.mark.parametrize("entry", [freeze(layers=[]), {"name": "share-upper", "layers": [3]}])
def test_no_layer_is_refused(entry):
    with pytest.raises(UserError, match="layers must name at least one layer"):
        make_defenses([entry])


# Personal layers


@BOTH
def test_a_personal_layer_is_never_sent_and_is_learned(settings):
    work = Work({"name": "share-upper"}, settings=settings)
    models = federate(work, 5)
    for name in FIRST:
        assert all(model.arrays[name].tobytes() == models[0].arrays[name].tobytes() for model in models)
        own = [work.memories[client][f"share-upper.{name}"] for client in (0, 1)]
        assert (own[0] != own[1]).any()
        assert all((array != models[0].arrays[name]).any() for array in own)
    assert (models[-1].arrays["fc2.weight"] != models[0].arrays["fc2.weight"]).any()


def test_fedsgd_by_hand_with_layers_of_ones_own():
    """Two rounds of two clients, each written out with autograd and a network for each client."""
    settings = SGD
    work = Work({"name": "share-upper"}, settings=settings, dropout=0.0)
    networks = [SERNet(INPUTS, CLASSES, 0.0) for _ in range(2)]
    for network in networks:
        network.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in work.start.arrays.items()})
        network.dropout2.p = 0.0
    work.model.network.dropout2.p = 0.0
    from fl_privacy.training._steps import Steps

    work.model._steps = Steps.of(work.model.network)
    models = federate(work, 2)
    for server_round in (1, 2):
        slopes = []
        for client, network in enumerate(networks):
            sequence = np.random.SeedSequence([settings.seed, server_round, client])
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
            x, y = features_of(client)
            batch = torch.randperm(len(x))[:8]
            network.zero_grad()
            functional.cross_entropy(network(x[batch]), y[batch]).backward()
            slopes.append({n: p.grad.clone() for n, p in network.named_parameters()})
        with torch.no_grad():
            for client, network in enumerate(networks):
                for name, p in network.named_parameters():
                    own = name in FIRST
                    p -= 0.1 * (slopes[client][name] if own else (slopes[0][name] + slopes[1][name]) / 2)
    for client, network in enumerate(networks):
        for name, p in network.named_parameters():
            found = work.memories[client][f"share-upper.{name}"] if name in FIRST else models[-1].arrays[name]
            np.testing.assert_allclose(found, p.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_fedavg_starts_from_ones_own_layers():
    """The second round equals a plain round of a client that is sent its own layers with the server's others."""
    work, plain = Work({"name": "share-upper"}, settings=AVG), Work(settings=AVG)
    work.answer(0, 1)
    mixed = Flat(plain.model.shapes)
    mixed.fill({**work.start.arrays, **{n: work.memories[0][f"share-upper.{n}"] for n in FIRST}})
    expected = plain.update(0, 2, sent=mixed)
    found = work.update(0, 2)
    for name in expected:
        if name in FIRST:
            assert not found[name].any()
            moved = work.memories[0][f"share-upper.{name}"] - mixed.arrays[name]
            np.testing.assert_allclose(moved, expected[name], atol=1e-6)
        else:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_a_step_leaves_the_servers_lower_layers_as_they_are():
    work = Work({"name": "share-upper"})
    stepped = work.answer(step=0.1)
    for name in FIRST:
        assert stepped[name].tobytes() == work.start.arrays[name].tobytes()
    assert (stepped["fc2.weight"] != work.start.arrays["fc2.weight"]).any()


def test_what_is_never_sent_hides_the_inputs():
    """Of a client with one example the first layer's gradient gives it exactly; with personal layers it is zero."""
    x, y = features_of(3, 1)
    plain, kept = Work().update(data=(x, y)), Work({"name": "share-upper"}).update(data=(x, y))
    slope = plain["fc1.bias"]
    point = slope @ plain["fc1.weight"] / (slope @ slope)
    np.testing.assert_allclose(point, x[0].numpy(), atol=1e-4)
    assert not kept["fc1.bias"].any()
    assert plain_network().fc1.in_features == INPUTS
