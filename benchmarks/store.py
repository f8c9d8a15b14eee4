"""Capture and attack 200 rounds x 10 clients of 286,596 parameters: anonymous memory, and what capture adds to a round.

The local engine runs the SER app's own network (988 inputs) on random features. Time is the wall time of a round, in
alternating blocks of 40 rounds of one federation with and without `CaptureUpdates`,
until the updates are on disk; memory is the peak of RssAnon, sampled every 10 ms in
a fresh process, libraries included.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._processes import Peak
from benchmarks._result import Result, Row

GIB = 2**30
_CLIENTS, _A_ROUND, _BLOCK = 40, 10, 40


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
        with tempfile.TemporaryDirectory() as folder:
            told = _child(f"time-{algorithm}-{30 if full else 14}", Path(folder))
        rows.append(
            Row(
                case=f"round of 10 {algorithm} clients, local engine, with CaptureUpdates",
                ours=1000 * told["captured"],
                rival=1000 * told["plain"],
                rival_name="without",
                unit="ms",
                ratio=told["captured"] / told["plain"],
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
        with Peak() as peak:
            _federate(place, 200)
        print(json.dumps({"peak": peak.bytes}))
    elif action == "attack":
        with Peak() as peak:
            _attack(place)
        print(json.dumps({"peak": peak.bytes}))
    else:
        _, algorithm, blocks = action.split("-")
        print(json.dumps(_federate(place, _BLOCK * int(blocks), algorithm, alternating=True)))


def _federate(place: Path, rounds: int, algorithm: str = "fedsgd", alternating: bool = False) -> dict[str, float]:
    """Run a federation under capture, or in blocks with and without in turn; return the median seconds of a round.

    A block's time runs until its updates are on disk.
    """
    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg, Strategy

    from benchmarks._ser_federation import INPUTS, write_data
    from fl_privacy import CaptureUpdates, FedSGD, UpdateStore, run_simulation
    from fl_privacy.models.ser import SERNet
    from fl_privacy.updates import Labels

    write_data(place / "data", _CLIENTS)
    for side in ("private", "own"):
        people = {str(i): {"speaker": f"{side}-{i}", "gender": "fm"[i % 2]} for i in range(_CLIENTS)}
        Labels(people).write(place / f"{side}.csv")
    seconds: dict[bool, list[float]] = {False: [], True: []}

    class Alternating(CaptureUpdates):
        began = 0.0

        def capturing(self, server_round: int) -> bool:
            return not alternating or (server_round - 1) // _BLOCK % 2 == 1

        def configure_train(self, server_round: int, *args: Any) -> Any:
            if (server_round - 1) % _BLOCK == 0:
                self.began = time.perf_counter()
            if self.capturing(server_round):
                return super().configure_train(server_round, *args)
            return self.strategy.configure_train(server_round, *args)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            if self.capturing(server_round):
                aggregated = super().aggregate_train(server_round, replies)
            else:
                aggregated = self.strategy.aggregate_train(server_round, replies)
            if server_round % _BLOCK == 0:
                self.store.flush()
                seconds[self.capturing(server_round)].append((time.perf_counter() - self.began) / _BLOCK)
            return aggregated

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        sampling = {"fraction_train": 1e-9, "min_train_nodes": _A_ROUND, "fraction_evaluate": 0.0}
        plain: Strategy = FedSGD(**sampling) if algorithm == "fedsgd" else FedAvg(**sampling)  # type: ignore[arg-type]
        strategy = Alternating(plain, UpdateStore(place / "updates"))
        strategy.start(grid, ArrayRecord(SERNet(INPUTS).state_dict()), num_rounds=rounds)

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
    # The first block of each pays for imports and for the first use of memory.
    return {
        "captured": statistics.median(seconds[True][1:] or [0.0]),
        "plain": statistics.median(seconds[False][1:] or [0.0]),
    }


def _attack(place: Path) -> None:
    from fl_privacy import UpdateStore, evaluate
    from fl_privacy.attacks.attribute import InputReconstruction, RawLinear

    shutil.copytree(place / "updates", place / "again", copy_function=os.link)  # what is measured is memory
    store, again = UpdateStore(place / "updates"), UpdateStore(place / "again")
    evaluate(
        [InputReconstruction(), RawLinear(layers=["all"])],
        store,
        shadow=again,
        labels=place / "private.csv",
        shadow_labels=place / "own.csv",
        attribute="gender",
        permutations=2,
    )


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
