"""What Flower's DP wrappers and client mods leave for the server to see: the figures of docs/threat-models.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy
from numpy_apps import examples, gradient, initial, norm, read, record, reply, server, sgd_app, weights_app

from fl_privacy.errors import UserError
from fl_privacy.sims.local import run_simulation
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.updates import UpdateStore

PAGE = (Path(__file__).parent.parent.parent / "docs" / "threat-models.md").read_text()
CLIENTS, CLIP, RATE = 4, 0.4, 0.1
ALL = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
Wrap = Callable[[Strategy], Strategy]


def server_fixed(inner: Strategy, noise: float = 1.0, **more: Any) -> Strategy:
    return flower.DifferentialPrivacyServerSideFixedClipping(inner, noise, CLIP, CLIENTS, **more)


def client_fixed(inner: Strategy, noise: float = 1.0, **more: Any) -> Strategy:
    return flower.DifferentialPrivacyClientSideFixedClipping(inner, noise, CLIP, CLIENTS, **more)


def server_adaptive(inner: Strategy, noise: float = 1.0) -> Strategy:
    return flower.DifferentialPrivacyServerSideAdaptiveClipping(
        inner, noise, CLIENTS, initial_clipping_norm=CLIP, clipped_count_stddev=1.0
    )


def client_adaptive(inner: Strategy, noise: float = 1.0) -> Strategy:
    return flower.DifferentialPrivacyClientSideAdaptiveClipping(
        inner, noise, CLIENTS, initial_clipping_norm=CLIP, clipped_count_stddev=1.0
    )


def local_mod() -> LocalDpMod:
    return LocalDpMod(CLIP, sensitivity=2 * CLIP, epsilon=1.0, delta=1e-5)


WRAPPERS: dict[str, tuple[Wrap, list[Any]]] = {
    "none": (lambda inner: inner, []),
    "ServerSideFixedClipping": (server_fixed, []),
    "ServerSideAdaptiveClipping": (server_adaptive, []),
    "ClientSideFixedClipping": (client_fixed, [fixedclipping_mod]),
    "ClientSideAdaptiveClipping": (client_adaptive, [adaptiveclipping_mod]),
}


def run(make: Callable[[], Strategy], app: ClientApp, rounds: int = 1) -> dict[str, np.ndarray]:
    server_app, left = server(make, rounds)
    run_simulation(server_app, app, CLIENTS, seed=3)
    return left["arrays"]


def capture(store: Path, wrap: Wrap, inner: Callable[[], Strategy], place: str) -> Callable[[], Strategy]:
    if place == "outside":
        return lambda: CaptureUpdates(wrap(inner()), UpdateStore(store))
    return lambda: wrap(CaptureUpdates(inner(), UpdateStore(store)))


def fedavg() -> Strategy:
    return FedAvg(**ALL)


def norms(store: Path) -> list[float]:
    """Norms of the captured updates, by client."""
    return [norm(dict(u.arrays)) for u in sorted(UpdateStore(store).updates(), key=lambda u: int(u.client))]


def in_words(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def raw(partition: int) -> dict[str, np.ndarray]:
    """The update of a `weights_app` client in the first round, by hand."""
    return {n: -RATE * a for n, a in gradient(initial(), partition).items()}


# What the server sees


@pytest.mark.parametrize("name", WRAPPERS)
def test_both_nestings_capture_what_the_page_says(name: str, tmp_path: Path) -> None:
    wrap, mods = WRAPPERS[name]
    for place in ("outside", "inside"):
        run(capture(tmp_path / place, wrap, fedavg, place), weights_app(train_mods=mods)[0])
    seen = {place: norms(tmp_path / place) for place in ("outside", "inside")}
    true = [norm(raw(c)) for c in range(CLIENTS)]
    clipped = [min(size, CLIP) for size in true]
    assert min(true) < CLIP < max(true)
    clips_at = {"none": None, "Serv": "inside", "Clie": "both"}[name[:4]]
    np.testing.assert_allclose(seen["outside"], clipped if clips_at == "both" else true, rtol=1e-4)
    np.testing.assert_allclose(seen["inside"], clipped if clips_at else true, rtol=1e-4)
    assert f"| `{name}` | {in_words(seen['outside'])} | {in_words(seen['inside'])} |" in PAGE


def test_clipping_leaves_the_direction_and_what_is_reconstructed(tmp_path: Path) -> None:
    """`G^T b / |b|^2` of a clipped update is that of the update."""
    run(capture(tmp_path / "s", client_fixed, fedavg, "outside"), weights_app(train_mods=[fixedclipping_mod])[0])
    for update in UpdateStore(tmp_path / "s").updates():
        both = [update.arrays, raw(int(update.client))]
        points = [a["fc.weight"].T @ a["fc.bias"] / np.square(a["fc.bias"]).sum() for a in both]
        np.testing.assert_allclose(points[0], points[1], rtol=1e-3, atol=1e-4)


def steps_and_noise(store: UpdateStore) -> np.ndarray:
    """What each round added to the model beyond the weighted mean of the captured updates."""
    left = []
    for one, two in zip(store.rounds, store.rounds[1:], strict=False):
        updates = [u for u in store.updates() if u.round == one]
        total = sum(u.num_examples or 0 for u in updates)
        before, after = store.sent(one, updates[0].client), store.sent(two, updates[0].client)
        for n in before:
            mean = sum((u.num_examples or 0) * u.arrays[n].astype(float) for u in updates) / total
            left.append((after[n] - before[n] - mean).ravel())
    return np.concatenate(left)


@pytest.mark.parametrize(("wrap", "mods"), [(server_fixed, []), (client_fixed, [fixedclipping_mod])])
def test_the_server_knows_the_noise_it_added(wrap, mods, tmp_path: Path) -> None:
    """From inside, the new model less the mean of the updates is the noise itself, of the deviation z C / n."""
    make = capture(tmp_path / "s", wrap, fedavg, "inside")
    run(make, weights_app(train_mods=mods)[0], rounds=60)
    noise = steps_and_noise(UpdateStore(tmp_path / "s"))
    assert noise.std() == pytest.approx(CLIP / CLIENTS, rel=0.1)
    assert f"z C / n = {CLIP / CLIENTS:.2f}" in PAGE
    quiet = capture(tmp_path / "quiet", lambda inner: wrap(inner, noise=0.0), fedavg, "inside")
    run(quiet, weights_app(train_mods=mods)[0], rounds=3)
    assert np.abs(steps_and_noise(UpdateStore(tmp_path / "quiet"))).max() < 1e-5


def test_noise_of_the_adaptive_wrapper_is_larger_by_the_share_spent_on_the_norm() -> None:
    made = server_adaptive(fedavg())
    assert made.noise_multiplier == pytest.approx((1 - 2.0**-2) ** -0.5)


def test_local_dp_noise_reaches_the_server(tmp_path: Path) -> None:
    deviation = 2 * CLIP * np.sqrt(2 * np.log(1.25 / 1e-5))
    assert f"a deviation of {deviation:.2f} in each" in PAGE
    run(capture(tmp_path / "s", lambda inner: inner, fedavg, "outside"), weights_app(train_mods=[local_mod()])[0], 30)
    updates = UpdateStore(tmp_path / "s").updates()
    noise = [u.arrays[n].ravel() for u in updates if u.round > 1 for n in u.arrays]
    first = [u.arrays[n] - raw(int(u.client))[n] for u in updates if u.round == 1 for n in u.arrays]
    # A clipped update is lost in it: 0.4 of norm against deviation 3.88 in each of 18 coordinates.
    assert np.concatenate(noise).std() == pytest.approx(deviation, rel=0.1)
    assert np.concatenate([a.ravel() for a in first]).std() == pytest.approx(deviation, rel=0.4)


# What does not do what it seems


def test_a_client_side_wrapper_clips_nothing_by_itself(tmp_path: Path) -> None:
    """And its accountant counts all the same."""
    accountant = make_accountant()
    run(
        capture(tmp_path / "s", lambda inner: client_fixed(inner, accountant=accountant), fedavg, "outside"),
        equal_app(),
    )
    assert max(norms(tmp_path / "s")) > CLIP
    assert accountant.num_releases == 1
    with pytest.raises(Exception, match="norm_bit") as raised:
        run(lambda: client_adaptive(fedavg()), weights_app()[0])
    assert str(raised.value) in PAGE


@pytest.mark.parametrize(("wrap", "mods"), [(server_adaptive, []), (client_adaptive, [adaptiveclipping_mod])])
def test_the_adaptive_norm_goes_the_other_way(wrap, mods) -> None:
    """All clipped: Andrew et al. raise the norm, Flower 1.41 lowers it; none clipped: the reverse."""
    found = []
    for start in (0.05, 50.0):
        made = []

        def make(start=start, made=made) -> Strategy:
            strategy = wrap(fedavg(), noise=0.0)
            strategy.clipping_norm = start
            strategy.clipped_count_stddev = 0.0
            made.append(strategy)
            return strategy

        run(make, weights_app(train_mods=mods)[0], rounds=2)
        found.append(made[0].clipping_norm / start)
    assert found == pytest.approx([np.exp(-0.2 * 0.5 * 2), np.exp(0.2 * 0.5 * 2)])
    assert "exp(-0.2 (share clipped - target))" in PAGE
    assert f"{found[0]:.3f} of it is left" in PAGE


def test_the_norm_bit_of_each_client_reaches_the_server_as_it_is() -> None:
    seen = {}

    class Watch(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            for r in replies:
                seen[r.metadata.src_node_id - 1000] = next(iter(r.content.metric_records.values()))["norm_bit"]
            return super().aggregate_train(server_round, replies)

    run(lambda: client_adaptive(Watch(**ALL)), weights_app(train_mods=[adaptiveclipping_mod])[0])
    assert seen == {c: int(norm(raw(c)) > CLIP) for c in range(CLIENTS)}


def still_app(mods: list[Any]) -> ClientApp:
    """Client 0 sends back what it was sent."""
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Any) -> Message:
        still = context.node_config["partition-id"] == 0
        return reply(message, {n: a + (0 if still else 1) for n, a in read(message).items()}, 1)

    return app


def test_an_update_of_zero_stops_the_run_or_the_round() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: server_fixed(fedavg(), 0.0), still_app([]))
    # No round went through: there is no new model.
    assert run(lambda: client_fixed(fedavg(), 0.0), still_app([fixedclipping_mod])) == {}


def test_a_mod_on_the_whole_app_breaks_evaluation() -> None:
    app = ClientApp(mods=[local_mod()])
    inner, _ = weights_app()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        return inner(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Any) -> Message:
        answer = reply(message, read(message), 1)
        del answer.content["arrays"]
        return answer

    reasons = []

    class Watch(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            reasons.extend(r.error.reason if r.has_error() else "" for r in replies)
            return None

    run(lambda: Watch(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS, fraction_evaluate=1.0), app)
    assert len(reasons) == CLIENTS
    (reason,) = set(reasons)
    assert reason in PAGE


def failures(strategy: type[FedAvg], app: ClientApp) -> set[str]:
    reasons = []

    class Watch(strategy):  # type: ignore[misc,valid-type]
        def aggregate_train(self, server_round, replies):
            reasons.extend(r.error.reason for r in replies if r.has_error())
            return record(initial()), None

    run(lambda: Watch(**ALL), app)
    return set(reasons)


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod])
def test_a_clipping_mod_without_its_wrapper_sends_an_error(mod) -> None:
    (reason,) = failures(FedAvg, weights_app(train_mods=[mod])[0])
    assert reason.replace(mod.__name__, "fixedclipping_mod") in PAGE


def test_a_clipping_mod_wants_one_config_record() -> None:
    from flwr.app import ConfigRecord

    class Two(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            config["clipping_norm"] = CLIP
            messages = list(super().configure_train(server_round, arrays, config, grid))
            messages[0].content["more"] = ConfigRecord()
            return messages

    (reason,) = failures(Two, weights_app(train_mods=[fixedclipping_mod])[0])
    assert reason in PAGE


# The accountant


def make_accountant(**more: Any) -> Any:
    from flwr.serverapp import PrivacyConfig, RdpAccountant, SamplingMethod
    from flwr.supercore.privacy_accounting import NeighboringRelation

    settings = {
        "target_delta": 1e-5,
        "population_size": CLIENTS,
        "neighboring_relation": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "sampling_method": SamplingMethod.NO_AMPLIFICATION,
    }
    return RdpAccountant(PrivacyConfig(**{**settings, **more}))


def equal_app(mods: list[Any] | None = None) -> ClientApp:
    """Clients of `weights_app` that all weigh the same."""
    app, (inner, _) = ClientApp(), weights_app()

    @app.train(mods=mods)
    def train(message: Message, context: Any) -> Message:
        answer = inner(message, context)
        answer.content["metrics"]["num-examples"] = 5
        return answer

    return app


def test_with_an_accountant_capture_goes_outside(tmp_path: Path) -> None:
    for wrap, mods in ((server_fixed, []), (client_fixed, [fixedclipping_mod])):
        accountant = make_accountant()

        def accounted(inner: Strategy, wrap=wrap, accountant=accountant) -> Strategy:
            return wrap(inner, accountant=accountant)

        run(capture(tmp_path / wrap.__name__, accounted, fedavg, "outside"), equal_app(mods), rounds=2)
        assert accountant.num_releases == 2
        assert UpdateStore(tmp_path / wrap.__name__).rounds == (1, 2)
        with pytest.raises(ValueError) as refused:
            capture(tmp_path / "in", accounted, fedavg, "inside")()
        assert str(refused.value) in PAGE


@pytest.mark.parametrize(
    "inner", [lambda: FedSGD(RATE, reply="step", **ALL), lambda: flower.FedAdam(**ALL), lambda: flower.FedMedian(**ALL)]
)
def test_an_accountant_wants_fedavg_itself(inner) -> None:
    with pytest.raises(ValueError, match=r"requires a strategy using FedAvg\.aggregate_train"):
        server_fixed(inner(), accountant=make_accountant())
    assert server_fixed(flower.FedProx(**ALL, proximal_mu=0.1), accountant=make_accountant())


def test_what_else_an_accountant_refuses() -> None:
    from flwr.serverapp import SamplingMethod

    def refused(act: Callable[[], object]) -> None:
        with pytest.raises(Exception) as raised:
            act()
        assert str(raised.value) in PAGE, str(raised.value)

    refused(lambda: server_fixed(fedavg(), 0.0, accountant=make_accountant()))
    poisson = {"sampling_method": SamplingMethod.POISSON}
    refused(lambda: server_fixed(fedavg(), accountant=make_accountant(**poisson)))
    refused(lambda: run(lambda: server_fixed(fedavg(), accountant=make_accountant()), weights_app()[0]))
    few = {"fraction_evaluate": 0.0, "fraction_train": 0.75, "min_available_nodes": CLIENTS}
    refused(lambda: run(lambda: server_fixed(FedAvg(**few), accountant=make_accountant()), equal_app()))
    refused(lambda: run(lambda: server_fixed(fedavg(), accountant=make_accountant(max_epsilon=1.0)), equal_app()))
    with pytest.raises(TypeError, match="accountant"):
        flower.DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 1.0, CLIENTS, accountant=make_accountant())
    with pytest.raises(ValueError, match="clipped_count_stddev"):
        flower.DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 1.0, 10)
    assert flower.DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 1.0, 11)


# FedSGD

WAYS: dict[str, tuple[Wrap, list[Any]]] = {
    **{name: way for name, way in WRAPPERS.items() if name != "none"},
    "LocalDpMod": (lambda inner: inner, [local_mod()]),
}


@pytest.mark.parametrize("place", ["outside", "inside"])
@pytest.mark.parametrize("name", WAYS)
def test_steps_pass_and_are_clipped(name: str, place: str, tmp_path: Path) -> None:
    wrap, mods = WAYS[name]

    def step() -> Strategy:
        return FedSGD(RATE, reply="step", **ALL)

    run(capture(tmp_path / "s", wrap, step, place), sgd_app(train_mods=mods))
    store = UpdateStore(tmp_path / "s")
    assert [u.kind for u in store.updates()] == ["delta"] * CLIENTS
    if name == "LocalDpMod":
        assert min(norms(tmp_path / "s")) > 2 * CLIP
        return
    true = [norm(raw(c)) for c in range(CLIENTS)]
    clipped = [min(size, CLIP) for size in true]
    expected = true if name.startswith("Server") and place == "outside" else clipped
    np.testing.assert_allclose(norms(tmp_path / "s"), expected, rtol=1e-4)


@pytest.mark.parametrize("name", WAYS)
def test_gradients_are_refused(name: str) -> None:
    wrap, mods = WAYS[name]
    with pytest.raises(UserError) as refused:
        run(lambda: wrap(FedSGD(RATE, **ALL)), sgd_app(train_mods=mods))
    assert re.sub(r"node \d+", "node N", str(refused.value)) in PAGE


def test_the_share_of_the_largest_client() -> None:
    sizes = [len(examples(c)[0]) for c in range(CLIENTS)]
    assert f"{', '.join(map(str, sizes))} examples" in PAGE
    assert f"{max(sizes) / sum(sizes):.2f} C" in PAGE
