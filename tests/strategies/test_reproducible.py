"""The same seed gives the same run where node ids, the order of nodes and the order of replies are random."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping as ClientClipping
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping as AdaptiveClipping
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as ServerClipping
from numpy_apps import (
    FlowerGrid,
    Free,
    examples,
    federate,
    final,
    gradient,
    initial,
    named,
    noisy_app,
    read,
    record,
    reply,
    weights_app,
)

from fl_privacy.clients.mods import reproducible_mod
from fl_privacy.errors import UserError
from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
from fl_privacy.updates import UpdateStore

CLIENTS, ROUNDS = 6, 3
SAMPLED = {"fraction_train": 0.5, "min_available_nodes": CLIENTS, "fraction_evaluate": 0.0}
EVERY = {"min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS, "fraction_evaluate": 0.0}
MODS = [reproducible_mod]

STRATEGIES = {
    "FedAvg": (lambda: flower.FedAvg(**SAMPLED), "weights"),
    "FedAdam": (lambda: flower.FedAdam(**SAMPLED), "weights"),
    "FedSGD": (lambda: FedSGD(0.1, **SAMPLED), "gradient"),
    "server-side clipping and noise": (lambda: ServerClipping(flower.FedAvg(**SAMPLED), 0.5, 0.3, 3), "weights"),
    "adaptive clipping and noise": (
        lambda: AdaptiveClipping(flower.FedAvg(**EVERY), 0.2, CLIENTS, clipped_count_stddev=0.4),
        "weights",
    ),
}


def run(make, app, seed=1, path=None, around=False, rounds=ROUNDS):
    """Run in a process state that nobody knows; `around`: the recorder outside of Reproducible."""
    strategy = make()
    if path is None:
        strategy = strategy if seed is None else Reproducible(strategy, seed)
    elif around:
        strategy = CaptureUpdates(Reproducible(strategy, seed), UpdateStore(path))
    else:
        strategy = CaptureUpdates(strategy, UpdateStore(path))
        strategy = strategy if seed is None else Reproducible(strategy, seed)
    result = federate(strategy, FlowerGrid(app, CLIENTS), rounds)
    return final(result), (UpdateStore(path).digest() if path else None)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_same_bytes(tmp_path, name, around):
    make, kind = STRATEGIES[name]
    app = noisy_app(mods=MODS, kind=kind)
    models, digests = zip(*(run(make, app, 1, tmp_path / f"{i}", around) for i in range(2)), strict=True)
    assert models[0] == models[1]
    assert digests[0] == digests[1]
    other, other_digest = run(make, app, 2, tmp_path / "other", around)
    assert other != models[0]
    assert other_digest != digests[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_the_wrapper_or_the_mod_nothing_repeats(tmp_path, name):
    """So that the test above shows what the two of them do."""
    make, kind = STRATEGIES[name]
    with_mod, without_mod = noisy_app(mods=MODS, kind=kind), noisy_app(mods=[], kind=kind)
    for number, (app, seed) in enumerate([(with_mod, None), (without_mod, 1)]):
        runs = [run(make, app, seed, tmp_path / f"{number}-{i}") for i in range(2)]
        assert runs[0][0] != runs[1][0]
        assert runs[0][1] != runs[1][1]


def test_sampling_alone_is_seeded_where_clients_are_not_random(tmp_path):
    """Deterministic clients without our mod: who is drawn and in what order sums run follows from the seed."""
    stores = []
    for i in range(2):
        app = named(weights_app()[0])
        stores.append(run(lambda: flower.FedAvg(**SAMPLED), app, 5, tmp_path / str(i), rounds=6))
    assert stores[0] == stores[1]
    drawn = {tuple(u.client for u in UpdateStore(tmp_path / "0").updates() if u.round == r) for r in range(1, 7)}
    assert len(drawn) > 1


def test_usable_without_capture():
    app = noisy_app(mods=MODS)
    make = STRATEGIES["FedAvg"][0]
    assert run(make, app) == run(make, app)
    assert run(make, app) != run(make, app, 2)


def test_nodes_that_connect_late_change_nothing(tmp_path, monkeypatch):
    """FedAvg takes a fraction of those who are there when it looks first."""
    monkeypatch.setattr("fl_privacy.strategies.reproducible.sleep", lambda seconds: None)
    app = noisy_app(mods=MODS)
    found = []
    for i, waves in enumerate([(), (0, 2, 3, CLIENTS)]):
        strategy = Reproducible(CaptureUpdates(flower.FedAvg(**SAMPLED), UpdateStore(tmp_path / str(i))), 1)
        result = federate(strategy, FlowerGrid(app, CLIENTS, waves=waves), 2)
        found.append((final(result), UpdateStore(tmp_path / str(i)).digest()))
    assert found[0] == found[1]


def test_a_second_run_of_one_strategy_object_repeats_the_first():
    app = noisy_app(mods=MODS)
    strategy = Reproducible(flower.FedAvg(**SAMPLED), 4)
    first, second = (final(federate(strategy, FlowerGrid(app, CLIENTS), 2)) for _ in range(2))
    assert first == second


def test_the_server_process_keeps_its_own_randomness():
    """A ServerApp that seeds itself goes on drawing what it would have drawn without the wrapper."""

    class Seeding(Reproducible):
        def summary(self):  # the last thing before the rounds
            random.seed(7)
            np.random.seed(7)  # noqa: NPY002
            torch.manual_seed(7)

    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    strategy = Seeding(ServerClipping(flower.FedAvg(**SAMPLED), 0.5, 0.3, 3), 1)
    federate(strategy, FlowerGrid(noisy_app(mods=MODS), CLIENTS), 2)
    after = draw()
    strategy.summary()
    assert after == draw()


def drawing_app(notes: list) -> ClientApp:
    """Clients that note what they draw."""
    app = named(ClientApp(mods=MODS))

    def draw(message, context):
        partition = context.node_config["partition-id"]
        drawn = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
        notes.append((message.metadata.message_type, partition, drawn))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        draw(message, context)
        return reply(message, read(message), 1)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        draw(message, context)
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return app


def test_every_client_round_and_message_type_has_streams_of_its_own():
    settings = {"min_train_nodes": CLIENTS, "min_evaluate_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    found = []
    for _ in range(2):
        notes = []
        before = random.getstate()
        federate(Reproducible(flower.FedAvg(**settings), 1), FlowerGrid(drawing_app(notes), CLIENTS), 2)
        assert random.getstate() != before
        assert len(notes) == 2 * 2 * CLIENTS
        for stream in range(3):
            assert len({drawn[stream] for _, _, drawn in notes}) == len(notes)
        found.append(sorted(notes))
    assert found[0] == found[1]  # train and evaluate alike


def test_evaluation_repeats():
    settings = {"fraction_train": 0.5, "fraction_evaluate": 0.5, "min_available_nodes": CLIENTS}
    app = noisy_app(mods=MODS)

    def metrics(strategy):
        result = federate(strategy, FlowerGrid(app, CLIENTS), 2)
        return {r: m["drawn"] for r, m in result.evaluate_metrics_clientapp.items()}

    ours = [metrics(Reproducible(flower.FedAvg(**settings), 3)) for _ in range(2)]
    assert len(ours[0]) == 2
    assert ours[0] == ours[1]
    assert ours[0] != metrics(Reproducible(flower.FedAvg(**settings), 4))
    assert metrics(flower.FedAvg(**settings)) != metrics(flower.FedAvg(**settings))


@pytest.mark.parametrize("around", [False, True])
def test_messages_without_any_config_record(tmp_path, around):
    def contents(server_round, place, model):
        return RecordDict({"arrays": record(model)})

    app = noisy_app(mods=MODS)
    runs = [run(lambda: Free(contents), app, 1, tmp_path / str(i), around) for i in range(2)]
    assert runs[0] == runs[1]
    assert run(lambda: Free(contents), app, 2)[0] != runs[0][0]
    # What the wrapper added for its own ends is no part of what clients were told.
    for number in UpdateStore(tmp_path / "0").rounds:
        (message,) = UpdateStore(tmp_path / "0").messages(number)
        assert message.told.records == (("arrays", "arrays", {}),)


def test_one_content_that_is_sent_again_in_every_round(tmp_path):
    """A strategy may keep its records: what the wrapper wrote into them in the last round is not told either."""
    kept = RecordDict({"arrays": record(initial())})

    class Same(Free):
        def aggregate_train(self, server_round, replies):
            return None, None

    app = noisy_app(mods=MODS)
    run(lambda: Same(lambda r, i, model: kept), app, 1, tmp_path / "s")
    store = UpdateStore(tmp_path / "s")
    told = [message.told.records for number in store.rounds for message in store.messages(number)]
    assert told == [(("arrays", "arrays", {}),)] * ROUNDS


def test_what_clients_are_told_beside_stays_as_it_is(tmp_path):
    def contents(server_round, place, model):
        return RecordDict({"first": ConfigRecord({"a": 1}), "second": ConfigRecord({"b": [1.5]}), "m": record(model)})

    told = []
    app = named(ClientApp(mods=MODS))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        told.append({key: dict(config) for key, config in message.content.config_records.items()})
        return reply(message, read(message), 1)

    run(lambda: Free(contents), app, 9, tmp_path / "s", rounds=1)
    for one in told:
        extra = one["first"].pop("fl_privacy.randomness")
        assert list(extra) == [9, 1]
        assert one == {"first": {"a": 1}, "second": {"b": [1.5]}}
    (message,) = UpdateStore(tmp_path / "s").messages(1)
    assert message.told.records == (
        ("first", "config", {"a": 1}),
        ("second", "config", {"b": [1.5]}),
        ("m", "arrays", {}),
    )


def test_flowers_fixed_clipping_mod_still_works():
    """It takes messages with exactly one ConfigRecord."""
    clip = 0.05
    app, _ = weights_app(mods=MODS, train_mods=[fixedclipping_mod])
    result = federate(
        Reproducible(ClientClipping(flower.FedAvg(**EVERY), 0.0, clip, CLIENTS), 1), FlowerGrid(named(app), CLIENTS), 1
    )
    start, sizes = initial(), np.array([len(examples(c)[0]) for c in range(CLIENTS)])
    for name in start:
        steps = []
        for c in range(CLIENTS):
            step = {n: -0.1 * g for n, g in gradient(start, c).items()}
            size = np.sqrt(sum(np.square(a).sum() for a in step.values()))
            steps.append(step[name] * min(1, clip / size))
        mean = sum(n * s for n, s in zip(sizes, steps, strict=True)) / sizes.sum()
        np.testing.assert_allclose(result.arrays[name].numpy(), start[name] + mean, atol=1e-6)


def test_flowers_local_dp_mod_still_works_and_its_noise_is_seeded():
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=0.1, epsilon=5.0, delta=1e-3)

    def make(seed):
        app = named(weights_app(mods=MODS, train_mods=[mod])[0])
        return final(federate(Reproducible(flower.FedAvg(**EVERY), seed), FlowerGrid(app, CLIENTS), 2))

    plain = federate(Reproducible(flower.FedAvg(**EVERY), 1), FlowerGrid(named(weights_app(mods=MODS)[0]), CLIENTS), 2)
    assert make(1) == make(1)
    assert make(1) != make(2)
    assert make(1) != final(plain)


@pytest.mark.parametrize("seed", [2**63, 1.5, "1", True, None])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(UserError, match="seed"):
        Reproducible(flower.FedAvg(**EVERY), seed)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_seed_of_64_bits_will_do(seed):
    app = noisy_app(mods=MODS)
    make = STRATEGIES["FedAvg"][0]
    assert run(make, app, seed, rounds=1) == run(make, app, seed, rounds=1)


def test_nodes_without_a_partition_are_said_to_spoil_it(caplog):
    caplog.set_level(logging.WARNING)
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        silent, _ = weights_app()
        federate(Reproducible(flower.FedAvg(**EVERY), 1), FlowerGrid(silent, CLIENTS), 2)
        said = {id(r): r.getMessage() for r in caplog.records if "cannot be repeated" in r.getMessage()}
        assert len(said) == 1
        assert f"{CLIENTS} node(s)" in next(iter(said.values()))
        caplog.clear()
        federate(Reproducible(flower.FedAvg(**EVERY), 1), FlowerGrid(named(weights_app()[0]), CLIENTS), 2)
        assert "cannot be repeated" not in caplog.text
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
