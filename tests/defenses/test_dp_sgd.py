"""DP-SGD as a defense of a federation: what is kept, what is promised, what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from opacus.accountants import RDPAccountant
from torch import nn

from fl_privacy.clients._memory import keep, recall
from fl_privacy.defenses import make_defenses
from fl_privacy.defenses.base import Accounted, Defense
from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.training.accounting import Ledger, noise_multiplier_for
from fl_privacy.training.client import local_update
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, make_network
from fl_privacy.training.participation import ClientSettings, Participation

FEDSGD = ClientSettings(0, "fedsgd", 8, 0.1, 1)
FEDAVG = ClientSettings(0, "fedavg", 8, 5e-4, 3)


def dp_sgd(**settings) -> Defense:
    return make_defenses([{"name": "dp-sgd", **settings}])[0]


def client(n=30, settings=FEDSGD, partition=2):
    return Participation(settings, 1, partition, n, torch.zeros(n), np.random.default_rng(0), {})


class Federation:
    """One client over many rounds."""

    def __init__(self, n=30, network=None):
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(n, 6, generator=generator)
        self.labels = torch.randint(4, (n,), generator=generator)
        self.model = LocalModel(network or SERNet(6))
        self.sent = Flat(self.model.shapes)

    def round(self, number, settings, defenses, memory):
        out = Flat(self.model.shapes)
        told = {"server_round": number, "partition": 2, "out": out, "defenses": defenses, "memory": memory}
        answer = local_update(self.model, self.sent, self.features, self.labels, settings, **told)
        return answer.examples, out.whole


@pytest.mark.parametrize(("settings", "a_round", "examples"), [(FEDSGD, 1, 8), (FEDAVG, 12, 90)])
def test_epsilon_is_composed_over_rounds_and_survives_a_resume(settings, a_round, examples):
    federation, context = Federation(), Context(1, 1, {}, RecordDict(), {})
    theirs = RDPAccountant()
    for number, noise in enumerate([1.1, 1.1, 0.8, 1.1], 1):
        # As if the client's process had ended: what it kept has been written and is read again.
        state = RecordDict({name: ConfigRecord(dict(record)) for name, record in context.state.config_records.items()})
        context = Context(1, 1, {}, state, {})
        memory = recall(context)
        reported, _ = federation.round(number, settings, [dp_sgd(noise_multiplier=noise)], memory)
        assert reported == examples  # expected, whatever was drawn
        keep(context, memory)
        for _ in range(a_round):
            theirs.step(noise_multiplier=noise, sample_rate=8 / 30)
    ledger = Ledger.read(recall(context), "example")
    assert ledger.steps == (2 * a_round, a_round, a_round)
    assert ledger.epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)
    done = Accounted(settings, [Ledger("example"), ledger, Ledger("client").added(0.1, 1.0, 1)], 2, 1, 4)
    (row,) = dp_sgd(noise_multiplier=1.1).promises(done)
    everybody = "server, and all who receive the model"
    assert (row.unit, row.mechanism, row.protects_from, row.delta) == ("example", "dp-sgd", everybody, 1e-5)
    assert row.epsilon_accountant == ledger.epsilon(1e-5)


def test_no_noise_promises_nothing():
    done = Accounted(FEDSGD, [Ledger("example").added(0.0, 0.5, 1)], 1, 1, 1)
    assert dp_sgd(target_epsilon=math.inf).promises(done)[0].epsilon_accountant is None


@pytest.mark.parametrize("settings", [FEDSGD, FEDAVG])
def test_the_target_is_met_by_the_client_that_takes_part_most_often(settings):
    settings = ClientSettings(**{**settings.__dict__, "participations": 5})
    federation, memory = Federation(), {}
    defense = dp_sgd(target_epsilon=3.0, clipping_norm=0.5)
    spent = []
    for number in range(1, 6):
        federation.round(number, settings, [defense], memory)
        spent.append(Ledger.read(memory, "example").epsilon(1e-5))
    assert spent == sorted(spent)
    assert 2.99 < spent[-1] <= 3.0
    assert spent[-2] < 2.99


def test_the_same_round_gives_the_same_noise_and_another_another():
    federation, defense = Federation(), dp_sgd(noise_multiplier=2.0)
    ends = [federation.round(number, FEDSGD, [defense], {})[1] for number in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_what_is_sent_scatters_as_the_defense_says():
    federation = Federation()
    drawn = torch.stack([federation.round(i, FEDSGD, [dp_sgd(noise_multiplier=20.0)], {})[1] for i in range(30)])
    weights = drawn[:, : 256 * 6]
    told = dp_sgd(noise_multiplier=20.0).noise(FEDSGD, 8.0)
    assert told == 20.0 / 8
    assert float(weights.std()) == pytest.approx(told, rel=0.02)


def test_the_scale_under_a_target_is_that_of_a_client_of_one_batch():
    settings = ClientSettings(0, "fedsgd", 8, 0.1, 1, participations=10)
    defense = dp_sgd(target_epsilon=4.0, clipping_norm=0.5)
    assert defense.noise(settings, 5.0) == 0.5 * noise_multiplier_for(4.0, 1e-5, 1.0, 10) / 5
    assert defense.noise(settings, 5.0) == defense.private_steps(client(5, settings)).deviation / 5
    assert defense.noise(settings, 8.0) >= defense.private_steps(client(30, settings)).deviation / 8
    assert defense.noise(FEDAVG, 90.0) == 0.0
    informed = dp_sgd(target_epsilon=4.0, clipping_norm=0.5, typical_examples=30)
    assert informed.noise(settings, 8.0) == defense.private_steps(client(30, settings)).deviation / 8
    assert informed.noise(settings, 5.0) == defense.noise(settings, 5.0)


def test_layers_that_another_defense_froze_stay_as_they_were():
    network = make_network(6, 4, 0.2, [])
    network.fc3.requires_grad_(False)
    federation = Federation(network=network)
    _, gradient = federation.round(1, FEDSGD, [dp_sgd(noise_multiplier=1.0)], {})
    flat = Flat(federation.model.shapes, gradient)
    assert not flat.tensors["fc3.weight"].any() and flat.tensors["fc2.weight"].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either noise_multiplier or target_epsilon"),
        ({"noise_multiplier": 1.0, "target_epsilon": 8.0}, "give either"),
        ({"target_epsilon": 0.0}, "target_epsilon is 0.0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": 1.0, "clipping_norm": 0.0}, "clipping_norm is 0.0"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, "delta is 0.0"),
        ({"noise_multiplier": 1.0, "delta": 1.5}, "delta is 1.5"),
        ({"noise_multiplier": 1.0, "typical_examples": 0}, "typical_examples is 0"),
        ({"noise_multiplier": 1.0, "engine": "fast"}, "Known: auto, hooks, ghost"),
        ({"noise_multiplier": "1"}, "dp-sgd"),
        ({"sigma": 1.0}, "sigma"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        dp_sgd(**settings)


def test_a_client_is_refused_that_cannot_be_private():
    with pytest.raises(UserError, match="client 2 has no training examples"):
        dp_sgd(noise_multiplier=1.0).private_steps(client(0))
    with pytest.raises(UserError, match=r"delta = 0.05 is not below 1/20, one in the examples of client 2"):
        dp_sgd(noise_multiplier=1.0, delta=0.05).private_steps(client(20))
    assert dp_sgd(noise_multiplier=1.0, delta=0.05).private_steps(client(19)).noise_multiplier == 1.0
    with pytest.raises(UserError, match="in how many rounds a client takes part at most"):
        dp_sgd(target_epsilon=8.0).private_steps(client())
    unreachable = ClientSettings(0, "fedsgd", 8, 0.1, 1, participations=50)
    with pytest.raises(UserError, match=r"target_epsilon = 0.01 cannot be reached in 50 steps"):
        dp_sgd(target_epsilon=0.01).private_steps(client(30, unreachable))


@pytest.mark.parametrize("settings", [FEDSGD, FEDAVG])
def test_a_client_without_examples_sends_nothing(settings):
    with pytest.raises(UserError, match="client 2 has no training examples"):
        Federation(n=0).round(1, settings, [dp_sgd(noise_multiplier=1.0)], {})


def test_what_was_refused_is_not_in_the_ledger():
    memory: dict = {}
    with pytest.raises(UserError, match="not below"):
        Federation().round(1, FEDSGD, [dp_sgd(noise_multiplier=1.0, delta=0.5)], memory)
    assert memory == {}


def test_batch_norm_is_refused_when_the_network_is_made():
    class Normalising(Defense):
        def model(self, model: nn.Module) -> nn.Module:
            return nn.Sequential(model, nn.BatchNorm1d(4))

    with pytest.raises(UserError, match=r"1 \(BatchNorm1d\): it normalises each example by the others"):
        make_network(6, 4, 0.2, [Normalising(), dp_sgd(noise_multiplier=1.0)])


def test_a_defense_that_adds_to_the_loss_is_refused_beside_it():
    class Adding(Defense):
        def objective(self, model, features, labels, batch, client):
            return model(features).sum()

    with pytest.raises(UserError, match="leave out the defense that adds to the loss"):
        Federation().round(1, FEDSGD, [dp_sgd(noise_multiplier=1.0), Adding()], {})


def test_its_settings_pass_through_a_run_configuration():
    entry = {"name": "dp-sgd", "target_epsilon": 8.0, "engine": "ghost"}
    (made,) = make_defenses(json.loads(json.dumps([entry])))
    settings = ClientSettings(0, "fedsgd", 8, 0.1, 1, participations=3)
    assert made.private_steps(client(30, settings)).engine == "ghost"
