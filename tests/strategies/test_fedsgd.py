from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping as ClientClipping
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as ServerClipping
from flwr.serverapp.strategy import FedAvg
from numpy_apps import examples, gradient, initial, read, record, reply, server, sgd_app

from fl_privacy.clients.stamp import RECORD
from fl_privacy.clients.stamp import stamp as stamp_of
from fl_privacy.errors import UserError
from fl_privacy.sims.local import run_simulation
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.updates import UpdateStore

CLIENTS, ROUNDS, RATE = 4, 5, 0.2
ALL = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}


def run(make_strategy, client_app, rounds=ROUNDS) -> dict[str, np.ndarray]:
    app, left = server(make_strategy, rounds)
    run_simulation(app, client_app, CLIENTS, seed=1)
    return left["arrays"]


def by_hand(rounds=ROUNDS) -> dict[str, np.ndarray]:
    model = {n: a.astype(np.float64) for n, a in initial().items()}
    sizes = np.array([len(examples(c)[0]) for c in range(CLIENTS)])
    for _ in range(rounds):
        gradients = [gradient(model, c) for c in range(CLIENTS)]
        for name in model:
            mean = sum(n * g[name].astype(np.float64) for n, g in zip(sizes, gradients, strict=True)) / sizes.sum()
            model[name] = model[name] - RATE * mean
    return model


@pytest.mark.parametrize("how", ["gradient", "step"])
def test_equals_a_loop_by_hand(how):
    final = run(lambda: FedSGD(RATE, reply=how, **ALL), sgd_app())
    expected = by_hand()
    for name, array in expected.items():
        assert final[name].dtype == np.float32
        np.testing.assert_allclose(final[name], array, rtol=1e-5, atol=1e-6)
        assert not np.allclose(array, initial()[name], atol=1e-2)


def test_equals_fedavg_over_steps():
    class Told(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            config["reply"], config["learning-rate"] = "step", RATE
            return super().configure_train(server_round, arrays, config, grid)

    ours, theirs = run(lambda: FedSGD(RATE, **ALL), sgd_app()), run(lambda: Told(**ALL), sgd_app())
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def test_captured_gradients_are_gradients_and_steps_are_deltas(tmp_path):
    for how in ("gradient", "step"):
        run(lambda how=how: CaptureUpdates(FedSGD(RATE, reply=how, **ALL), UpdateStore(tmp_path / how)), sgd_app(), 2)
    stores = {how: UpdateStore(tmp_path / how) for how in ("gradient", "step")}
    for update in stores["gradient"].updates():
        assert update.kind == "gradient"
        sent = stores["gradient"].sent(update.round, update.client)
        expected = gradient(sent, int(update.client))
        np.testing.assert_array_equal(update.arrays["fc.weight"], expected["fc.weight"])
    for grad, step in zip(stores["gradient"].updates(), stores["step"].updates(), strict=True):
        assert step.kind == "delta"
        np.testing.assert_allclose(step.arrays["fc.bias"], -RATE * grad.arrays["fc.bias"], rtol=1e-3, atol=1e-6)


def test_gradients_under_a_server_side_dp_wrapper_are_refused():
    with pytest.raises(UserError, match="reply='step'"):
        run(lambda: ServerClipping(FedSGD(RATE, **ALL), 0.0, 0.05, CLIENTS), sgd_app())


def test_gradients_under_a_client_side_clipping_mod_are_refused():
    with pytest.raises(UserError, match="reply='step'"):
        run(lambda: ClientClipping(FedSGD(RATE, **ALL), 0.0, 0.05, CLIENTS), sgd_app(train_mods=[fixedclipping_mod]))


def test_steps_go_with_both_and_are_clipped():
    clip = 0.05
    for strategy, app in [
        (lambda: ServerClipping(FedSGD(RATE, reply="step", **ALL), 0.0, clip, CLIENTS), sgd_app()),
        (
            lambda: ClientClipping(FedSGD(RATE, reply="step", **ALL), 0.0, clip, CLIENTS),
            sgd_app(train_mods=[fixedclipping_mod]),
        ),
    ]:
        final = run(strategy, app, 1)
        start, sizes = initial(), np.array([len(examples(c)[0]) for c in range(CLIENTS)])
        steps = []
        for c in range(CLIENTS):
            step = {n: -RATE * a for n, a in gradient(start, c).items()}
            size = np.sqrt(sum(np.square(a).sum() for a in step.values()))
            assert size > clip
            steps.append({n: a * clip / size for n, a in step.items()})
        for name in start:
            mean = sum(n * s[name] for n, s in zip(sizes, steps, strict=True)) / sizes.sum()
            np.testing.assert_allclose(final[name], start[name] + mean, atol=1e-5)


def test_a_wrapper_whose_clipping_does_not_bite_is_refused_as_well():
    """Its noise is scaled for weights, and the next round may bite."""
    with pytest.raises(UserError, match="reply='step'"):
        run(lambda: ServerClipping(FedSGD(RATE, **ALL), 0.0, 1e6, CLIENTS), sgd_app(), 1)


@pytest.mark.parametrize("how", ["gradient", "step"])
def test_a_reply_without_a_stamp_is_refused(how):
    with pytest.raises(UserError, match="did not say that it replies"):
        run(lambda: FedSGD(RATE, reply=how, **ALL), sgd_app(stamp=False))


def crooked_app(arrays_of, kind="gradient") -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        arrays = arrays_of(read(message))
        return reply(message, arrays, 3, **{RECORD: stamp_of(record(arrays), kind)})

    return app


def test_weights_where_gradients_are_due_are_refused():
    with pytest.raises(UserError, match="did not say that it replies gradient"):
        run(lambda: FedSGD(RATE, **ALL), crooked_app(lambda sent: sent, kind="weights"))


def test_a_zero_gradient_is_a_gradient():
    final = run(lambda: FedSGD(RATE, **ALL), crooked_app(lambda sent: {n: 0 * a for n, a in sent.items()}))
    assert all(final[n].tobytes() == a.tobytes() for n, a in initial().items())


def test_a_gradient_that_is_not_finite_is_not_blamed_on_a_wrapper():
    with pytest.raises(UserError) as refused:
        run(lambda: FedSGD(RATE, **ALL), crooked_app(lambda sent: {n: a * np.nan for n, a in sent.items()}))
    assert "finite" in str(refused.value)


def test_a_gradient_of_another_shape_is_refused():
    def wrong(sent):
        return {"fc.weight": sent["fc.weight"], "fc.bias": sent["fc.bias"][:1]}  # would broadcast

    with pytest.raises(UserError):
        run(lambda: FedSGD(RATE, **ALL), crooked_app(wrong), 1)


def test_error_replies_are_left_out():
    app, good = ClientApp(), sgd_app()

    @app.train()
    def train(message: Message, context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise ValueError("gone")
        return good(message, context)

    final = run(lambda: FedSGD(RATE, **ALL), app, 1)
    start, sizes = initial(), np.array([len(examples(c)[0]) for c in range(1, CLIENTS)])
    mean = sum(n * gradient(start, c)["fc.bias"] for n, c in zip(sizes, range(1, CLIENTS), strict=True)) / sizes.sum()
    np.testing.assert_allclose(final["fc.bias"], start["fc.bias"] - RATE * mean, atol=1e-6)


def test_metrics_are_aggregated_as_in_fedavg():
    seen: list[MetricRecord] = []

    class Watch(FedSGD):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            seen.append(metrics)
            return arrays, metrics

    run(lambda: Watch(RATE, **ALL), sgd_app(), 1)
    assert len(seen) == 1
    assert seen[0] is not None


@pytest.mark.parametrize("wrong", [{"learning_rate": 0}, {"learning_rate": float("nan")}, {"reply": "weights"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="FedSGD"):
        FedSGD(**wrong)
