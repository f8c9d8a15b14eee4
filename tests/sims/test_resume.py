"""A federation that is killed and goes on: to the bytes of one that was never stopped."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping as Adaptive
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy

from fl_privacy.clients.mods import reproducible_mod
from fl_privacy.clients.stamp import RECORD, stamp
from fl_privacy.errors import UserError
from fl_privacy.sims import resume
from fl_privacy.sims.local import run_simulation
from fl_privacy.sims.resume import Resumable
from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
from fl_privacy.updates import UpdateStore

CLIENTS, ROUNDS = 6, 7
SOME = {"fraction_train": 0.5, "min_available_nodes": CLIENTS, "fraction_evaluate": 0.5}


class Killed(BaseException):
    pass


def client_app() -> ClientApp:
    """Clients with a state that matters and randomness of every kind."""
    app = ClientApp(mods=[reproducible_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen = context.state.setdefault("seen", MetricRecord({"n": 0}))
        seen["n"] += 1
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        moved = [a * 0.9 + np.random.normal(size=a.shape).astype(a.dtype) / seen["n"] for a in arrays]  # noqa: NPY002
        reply = ArrayRecord(moved)
        content = RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": 3, "seen": float(seen["n"])})})
        if message.content.config_records["config"].get("reply") == "gradient":
            content[RECORD] = stamp(reply, "gradient")
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        score = float(np.random.random())  # noqa: NPY002
        return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "score": score})}), reply_to=message)

    return app


def federate(folder: Path, inner: Strategy, stop_in: int | None = None, every: float = 0.0, **start) -> dict:
    """Run a federation, or until a round in which it is killed; return all that came out."""
    app, left = ServerApp(), {}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        capture = CaptureUpdates(inner, UpdateStore(folder / "updates"))
        strategy = Resumable(Reproducible(capture, start.get("seed", 5)), folder / "checkpoint", every_seconds=every)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            if server_round == stop_in:
                raise Killed
            left.setdefault("evaluated", []).append(server_round)
            return MetricRecord({"mean": float(arrays.to_numpy_ndarrays()[0].mean())})

        initial = start.get("initial", ArrayRecord([np.ones((2, 3), np.float32), np.zeros(2, np.float32)]))
        result = strategy.start(
            grid, initial, num_rounds=ROUNDS, evaluate_fn=evaluate, train_config=ConfigRecord({"note": "x"})
        )
        left["arrays"] = [a.data for a in result.arrays.values()]
        left["metrics"] = (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
            result.evaluate_metrics_serverapp,
        )

    folder.mkdir(exist_ok=True)
    run_simulation(app, client_app(), CLIENTS, seed=2)
    return left


def outcome(left: dict, folder: Path) -> tuple:
    return left["arrays"], left["metrics"], UpdateStore(folder / "updates").digest()


@pytest.mark.parametrize("make", [lambda: FedAvg(**SOME), lambda: FedSGD(0.1, **SOME)], ids=["FedAvg", "FedSGD"])
def test_killed_in_any_round_it_ends_in_the_same_bytes(tmp_path, make):
    whole = outcome(federate(tmp_path / "whole", make()), tmp_path / "whole")
    for stop in range(1, ROUNDS + 1):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(Killed):
            federate(folder, make(), stop_in=stop)
        left = federate(folder, make())
        assert outcome(left, folder) == whole
        # The checkpoint is written before the next round: all rounds before the one that was cut off are kept.
        assert left["evaluated"] == ([0] if stop == 1 else []) + list(range(max(stop, 1), ROUNDS + 1))


def test_killed_twice_and_while_writing(tmp_path):
    whole = outcome(federate(tmp_path / "whole", FedAvg(**SOME)), tmp_path / "whole")
    folder = tmp_path / "s"
    for stop in (3, 5):
        with pytest.raises(Killed):
            federate(folder, FedAvg(**SOME), stop_in=stop)
        (folder / "updates" / ".round-000009.safetensors.part").write_bytes(b"half")
        with (folder / "updates" / "index.jsonl").open("a") as index:
            index.write('{"round": 9, "sha')
        (folder / ".checkpoint.part").write_bytes(b"half")
    assert outcome(federate(folder, FedAvg(**SOME)), folder) == whole


def test_a_rarer_checkpoint_repeats_more_rounds(tmp_path, monkeypatch):
    whole = outcome(federate(tmp_path / "whole", FedAvg(**SOME)), tmp_path / "whole")
    ticks = iter(range(1000))
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    folder = tmp_path / "s"
    with pytest.raises(Killed):
        federate(folder, FedAvg(**SOME), stop_in=6, every=4.0)
    left = federate(folder, FedAvg(**SOME), every=4.0)
    assert 1 < left["evaluated"][0] < 6
    assert outcome(left, folder) == whole


class Remembers(FedAvg):
    """May keep anything from round to round."""


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: FedAdam(**SOME), "FedAdam"),
        (lambda: Remembers(**SOME), "Remembers"),
        (lambda: Adaptive(FedAvg(**SOME), 0.1, 3, clipped_count_stddev=1.0), "Adaptive"),
    ],
)
def test_what_remembers_more_starts_again_and_says_so(tmp_path, caplog, make, word):
    caplog.set_level(logging.WARNING, logger="flwr")
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        with pytest.raises(Killed):
            federate(tmp_path / "s", make(), stop_in=4)
        left = federate(tmp_path / "s", make())
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert left["evaluated"] == list(range(ROUNDS + 1))
    assert any("starts again from round 1" in text and word in text for text in caplog.messages)
    assert outcome(left, tmp_path / "s") == outcome(federate(tmp_path / "w", make()), tmp_path / "w")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    with pytest.raises(Killed):
        federate(tmp_path / "s", FedAvg(**SOME), stop_in=4)
    other = ArrayRecord([np.zeros((2, 3), np.float32), np.zeros(2, np.float32)])
    with pytest.raises(UserError, match="another initial model"):
        federate(tmp_path / "s", FedAvg(**SOME), initial=other)
    with pytest.raises(UserError, match="another initial model or seed"):
        federate(tmp_path / "s", FedAvg(**SOME), seed=6)
    assert UpdateStore(tmp_path / "s" / "updates").rounds[:2] == (1, 2)  # nothing is lost by it
    (tmp_path / "s" / "checkpoint").write_bytes(b"\xff no checkpoint")
    with pytest.raises(UserError, match="no checkpoint"):
        federate(tmp_path / "s", FedAvg(**SOME))
    shutil.rmtree(tmp_path / "s" / "updates")


def test_without_a_checkpoint_nothing_that_is_there_is_touched(tmp_path):
    federate(tmp_path / "s", FedAvg(**SOME))
    (tmp_path / "s" / "checkpoint").unlink()
    before = UpdateStore(tmp_path / "s" / "updates").digest()
    with pytest.raises(UserError, match="already holds captured updates"):
        federate(tmp_path / "s", FedAvg(**SOME))
    assert UpdateStore(tmp_path / "s" / "updates").digest() == before
