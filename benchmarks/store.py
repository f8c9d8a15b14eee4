"""Capture and attack 200 rounds x 10 clients of 286,596 parameters: anonymous memory, and what capture adds to a round.

The local engine runs the SER app's own network (988 inputs) on random features. Time is the process's CPU and wall time
of a round with and without `CaptureUpdates`, in alternating runs; memory is the peak of RssAnon, sampled every 10 ms in
a fresh process, libraries included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._result import Result, Row

GIB = 2**30
_CLIENTS, _A_ROUND, _INPUTS, _EXAMPLES = 40, 10, 988, 23


def run(full: bool) -> Result:
    """Measure; the long form repeats the timing more often."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows = []
        for case, action in (("writing", "write"), ("attacking", "attack")):
            told = _child(action, place)
            rows.append(
                Row(
                    case=f"anonymous memory while {case}, 200 x 10 x 286,596",
                    ours=told["peak"] / GIB,
                    rival=2000 * 286_596 * 4 / GIB,
                    rival_name="all updates in memory (computed)",
                    unit="GiB",
                    ratio=told["peak"] / GIB,
                    aim=2.0,
                    aim_is="at_most",
                )
            )
    for algorithm in ("fedsgd", "fedavg"):
        plain: list[float] = []
        captured: list[float] = []
        for number in range(9 if full else 5):
            for wanted, times in (
                ((False, plain), (True, captured)) if number % 2 else ((True, captured), (False, plain))
            ):
                with tempfile.TemporaryDirectory() as folder:
                    times.append(_child(f"time-{algorithm}{'-captured' if wanted else ''}", Path(folder))["seconds"])
        ours, rival = statistics.median(captured), statistics.median(plain)
        rows.append(
            Row(
                case=f"round of 10 {algorithm} clients, local engine, with CaptureUpdates",
                ours=1000 * ours,
                rival=1000 * rival,
                rival_name="without",
                unit="ms",
                ratio=ours / rival,
                aim=1.10,
                aim_is="at_most",
            )
        )
    return Result("store", tuple(rows))


def _child(action: str, place: Path) -> dict[str, float]:
    """Do one piece of work in a fresh process and return what it measured."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store", action, str(place)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


# ------------------------------------------------------------------ in the child


def _main(action: str, place: Path) -> None:
    import logging

    import flwr.common.logger  # noqa: F401

    logging.getLogger("flwr").handlers = [logging.NullHandler()]
    if action == "write":
        with _Peak() as peak:
            _federate(place, rounds=200, captured=True)
        print(json.dumps({"peak": peak.bytes}))
    elif action == "attack":
        with _Peak() as peak:
            _attack(place)
        print(json.dumps({"peak": peak.bytes}))
    else:
        _, algorithm, *captured = action.split("-")
        print(json.dumps({"seconds": _federate(place, rounds=40, captured=bool(captured), algorithm=algorithm)}))


def _federate(place: Path, rounds: int, captured: bool, algorithm: str = "fedsgd") -> float:
    """Run a federation and return the median wall time of a round, in seconds."""
    import numpy as np
    from flwr.app import ArrayRecord, Context, MetricRecord
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg, Strategy

    from fl_privacy import CaptureUpdates, FedSGD, UpdateStore, run_simulation
    from fl_privacy.models.ser import SERNet
    from fl_privacy.training import ClientData, write_federation
    from fl_privacy.updates import Labels

    rng = np.random.default_rng(0)
    clients = []
    for _ in range(_CLIENTS):
        x, y = rng.standard_normal((_EXAMPLES, _INPUTS), np.float32), rng.integers(0, 4, _EXAMPLES)
        clients.append(ClientData(x, y, x[:0], y[:0]))
    write_federation(place / "data", clients, list("abcd"), clients[0].train_features[:0], clients[0].train_labels[:0])
    Labels({str(i): {"speaker": f"s{i}", "gender": "fm"[i % 2]} for i in range(_CLIENTS)}).write(place / "labels.csv")
    marks: list[float] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        sampling = {"fraction_train": 1e-9, "min_train_nodes": _A_ROUND, "fraction_evaluate": 0.0}
        strategy: Strategy = FedSGD(**sampling) if algorithm == "fedsgd" else FedAvg(**sampling)  # type: ignore[arg-type]
        if captured:
            strategy = CaptureUpdates(strategy, UpdateStore(place / "updates"))

        def mark(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            marks.append(time.perf_counter())
            return None

        strategy.start(grid, ArrayRecord(SERNet(_INPUTS).state_dict()), num_rounds=rounds, evaluate_fn=mark)
        marks.append(time.perf_counter())  # until everything is on disk

    settings = {
        "data": str(place / "data"),
        "seed": 1,
        "algorithm": algorithm,
        "batch-size": 20,
        "learning-rate": 5e-4,
        "local-epochs": 1,
        "dropout": 0.2,
        "defenses": "[]",
    }
    run_simulation(app, "fl_privacy.clients.ser:app", _CLIENTS, settings)  # type: ignore[arg-type]
    # Round 1 pays for imports; the time until the last round is on disk is shared out over all rounds.
    return (marks[-1] - marks[1]) / (rounds - 1)


def _attack(place: Path) -> None:
    from fl_privacy import UpdateStore, evaluate
    from fl_privacy.attacks.attribute import InputReconstruction, RawLinear

    store, labels = UpdateStore(place / "updates"), place / "labels.csv"
    evaluate(
        [InputReconstruction(), RawLinear(layers=["all"])],
        store,
        shadow=store,
        labels=labels,
        shadow_labels=labels,
        attribute="gender",
        permutations=2,
    )


class _Peak:
    """The largest RssAnon of this process while the block runs, in bytes."""

    def __enter__(self) -> _Peak:
        import threading

        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            with open("/proc/self/status") as file:
                line = next(line for line in file if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
