"""The local engine, with one worker and with two, beside Flower's own simulation on Ray: time, CPU, cold start, memory.

The same apps on both: FedSGD clients of the SER network (988 inputs, 286,596 parameters: 1.1 MB a message each way) on
random features, 10, 50 and 100 of 100 a round, no evaluation. A run is a fresh process that goes through all three;
runs of the engines take turns. A warm round is one behind the first two of its size; CPU time is that of
the process and all its descendants. The cold start is the time from the start of the process to the end of its first
round (10 clients). Memory is RssAnon, summed over the processes, sampled every 20 ms, under `CaptureUpdates`; shards
that have been written are deleted.
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
from typing import Any

from benchmarks._processes import anonymous_bytes, cpu_seconds, tree
from benchmarks._result import Result, Row

_CLIENTS = 100
_ROUNDS = {10: 22, 50: 12, 100: 9}
_COLD_ROUNDS = 2
_AIMS = {10: 4.0, 50: 3.0, 100: 3.0}
_ENGINES = ("local, 1 worker", "local, 2 workers", "Ray")
_MEMORY_ROUNDS = 200
_RIVAL = "Flower's simulation on Ray, one CPU a client"


def run(full: bool) -> Result:
    """Measure; the long form repeats the timing more often."""
    told: dict[str, list[Any]] = {engine: [] for engine in _ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        _child("data", data)
        for _ in range(7 if full else 3):
            for engine in _ENGINES:
                told[engine].append(_child(engine, data, time.monotonic()))
        rows = [*_warm(told), _cold(told), *_cpu(told)]
        rows += [_memory(engine, data, Path(folder)) for engine in _ENGINES[:2]]
    return Result("engines", tuple(rows))


def _warm(told: dict[str, list[Any]]) -> list[Row]:
    rows = []
    for clients in _ROUNDS:
        seconds = {e: statistics.median(s for run in told[e] for s in run[str(clients)]["seconds"]) for e in told}
        best = min(_ENGINES[:2], key=lambda engine: seconds[engine])
        rows.append(
            Row(
                case=f"warm round, {clients} clients ({best})",
                ours=seconds[best],
                rival=seconds["Ray"],
                rival_name=_RIVAL,
                unit="s",
                ratio=seconds["Ray"] / seconds[best],
                aim=_AIMS[clients],
                aim_is="at_least",
                extra={"seconds": seconds},
            )
        )
    return rows


def _cold(told: dict[str, list[Any]]) -> Row:
    seconds = {engine: statistics.median(run["cold"] for run in told[engine]) for engine in told}
    ours = seconds[_ENGINES[0]]
    case = f"process start to the end of the first round ({_ENGINES[0]})"
    ratio = ours / seconds["Ray"]
    return Row(case, ours, seconds["Ray"], _RIVAL, "s", ratio, 1 / 3, "at_most", {"seconds": seconds})


def _cpu(told: dict[str, list[Any]]) -> list[Row]:
    rows = []
    for clients in _ROUNDS:
        cost = {engine: statistics.median(run[str(clients)]["cpu_ms"] for run in told[engine]) for engine in told}
        for engine in _ENGINES[:2]:
            case = f"CPU per client message, {clients} clients ({engine})"
            ratio = cost["Ray"] / cost[engine]
            rows.append(Row(case, cost[engine], cost["Ray"], _RIVAL, "ms", ratio, None, "at_least"))
    return rows


def _memory(engine: str, data: Path, folder: Path) -> Row:
    """Watch a long run from outside."""
    command = [sys.executable, "-m", "benchmarks.engines", f"memory {engine}", str(data), str(folder / engine)]
    samples: list[tuple[float, int]] = []
    with (
        (folder / "log.txt").open("w+", encoding="utf-8") as log,
        subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        pids: list[int] = []
        while child.poll() is None:
            if len(samples) % 50 == 0:
                pids = list(tree(child.pid))
            samples.append((time.monotonic(), anonymous_bytes(pids)))
            time.sleep(0.02)
        assert child.stdout is not None
        printed = child.stdout.read()
        if child.returncode:
            log.seek(0)
            raise RuntimeError(
                f"the {engine} of the memory row ended with status {child.returncode}:\n{log.read()[-2000:]}"
            )
    ends = json.loads(printed.splitlines()[-1])

    def peak(first: int, last: int) -> int:
        """Return the peak over rounds first to last, counted from 1."""
        return max(size for moment, size in samples if ends[first - 2] <= moment <= ends[last - 1])

    early, late = peak(10, 60), peak(_MEMORY_ROUNDS - 49, _MEMORY_ROUNDS)
    return Row(
        case=f"anonymous memory, {_MEMORY_ROUNDS} rounds of 100: last 50 to rounds 10-60 ({engine})",
        ours=late / 2**20,
        rival=early / 2**20,
        rival_name="rounds 10-60 (memory)",
        unit="MiB",
        ratio=late / early,
        aim=1.05,
        aim_is="at_most",
    )


def _child(action: str, data: Path, began: float = 0.0) -> Any:
    """Do one piece of work in a fresh process and return what it measured."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engines", action, str(data), str(began)],
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{action!r} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


# ------------------------------------------------------------------ in the child


def _main(action: str, data: Path, last: str) -> None:
    import logging

    import flwr.common.logger  # noqa: F401

    logging.getLogger("flwr").handlers = [logging.NullHandler()]
    if action == "data":
        from benchmarks._ser_federation import write_data

        write_data(data, _CLIENTS)
        told: Any = None
    elif action.startswith("memory "):
        told = _long(action.removeprefix("memory "), data, Path(last))
    else:
        told = _short(action, data, float(last))
    print(json.dumps(told))


def _short(engine: str, data: Path, began: float) -> dict[str, Any]:
    """Go through all sizes; return the cold start, and for each size seconds of warm rounds and CPU per message."""
    from benchmarks._ser_federation import server
    from fl_privacy import FedSGD

    told: dict[str, Any] = {}

    class Watched(FedSGD):
        """Notes when rounds end."""

        def __init__(self, clients: int) -> None:
            super().__init__(fraction_train=1e-9, min_train_nodes=clients, fraction_evaluate=0.0)
            self.clients = clients
            self.seconds: list[float] = []
            self.moment = self.cpu = 0.0

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            aggregated = super().aggregate_train(server_round, replies)
            told.setdefault("cold", time.monotonic() - began)
            if server_round > _COLD_ROUNDS:
                self.seconds.append(time.perf_counter() - self.moment)
            if server_round == _COLD_ROUNDS:
                self.cpu = cpu_seconds(os.getpid())
            elif server_round == _ROUNDS[self.clients]:
                spent = cpu_seconds(os.getpid()) - self.cpu
                messages = self.clients * (server_round - _COLD_ROUNDS)
                told[str(self.clients)] = {"seconds": self.seconds, "cpu_ms": 1000 * spent / messages}
            self.moment = time.perf_counter()
            return aggregated

    _simulate(engine, server(data, [(Watched(clients), rounds) for clients, rounds in _ROUNDS.items()]))
    return told


def _long(engine: str, data: Path, place: Path) -> list[float]:
    """Run a long captured federation; return when each round ended."""
    from benchmarks._ser_federation import server
    from fl_privacy import CaptureUpdates, FedSGD, UpdateStore

    ends: list[float] = []

    class Forgetful(CaptureUpdates):
        """Deletes what has been written: 22 GB would say nothing about memory."""

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            aggregated = super().aggregate_train(server_round, replies)
            for shard in sorted(place.rglob("*.safetensors"))[:-5]:
                shard.unlink()
            ends.append(time.monotonic())
            return aggregated

    strategy = FedSGD(fraction_train=1e-9, min_train_nodes=_CLIENTS, fraction_evaluate=0.0)
    _simulate(engine, server(data, [(Forgetful(strategy, UpdateStore(place)), _MEMORY_ROUNDS)]))
    return ends


def _simulate(engine: str, server: Any) -> None:
    from benchmarks._ser_federation import app

    if engine == "Ray":
        from flwr.simulation import run_simulation as on_ray

        backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": os.cpu_count()}}
        on_ray(server, app, _CLIENTS, backend_config=backend)  # type: ignore[arg-type]
        return
    from fl_privacy import run_simulation

    run_simulation(server, "benchmarks._ser_federation:app", _CLIENTS, workers=_ENGINES.index(engine) + 1)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
