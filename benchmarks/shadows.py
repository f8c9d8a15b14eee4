"""Client updates a second: the shadow trainer, Flower on Ray, and a loop that makes everything anew for each client.

The SER network (988 inputs, 286,596 parameters) on random features, 23 examples a client (one batch of 20 for FedSGD, a
batch of 20 and one of 3 for FedAvg), 10 of 100 clients a round, every update captured in full. On two cores: Flower's
simulation with two actors; of the loops, two federations in two processes at the same time. Runs of the sides take
turns. A side's rate is taken between the captures of its rounds, without the first ones, and for loops while both
processes are at work. What the sides capture is compared: by SHA-256 where they compute the same to the bit.

The ceiling is the rate at which two processes do nothing but the products of matrices of such an update, by `torch.mm`
on memory that is there: forward, weights' gradients, inputs' gradients.
"""

from __future__ import annotations

import hashlib
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

from benchmarks._result import Result, Row

_CLIENTS, _A_ROUND = 100, 10
_ROUNDS = {"Ray": 22, "rebuild": 42, "ours": 102}
_COLD_ROUNDS = 2
_AIMS = {"fedsgd": 30.0, "fedavg": 15.0}
_BATCHES = {"fedsgd": (20,), "fedavg": (20, 3)}
_CEILING_SECONDS = 2.0
_RIVALS = {
    "Ray": "Flower's simulation on Ray, one CPU a client",
    "rebuild": "a loop that makes model, data set, loader and optimiser anew for each client",
    "ceiling": "products of matrices alone, two processes",
}


def run(full: bool) -> Result:
    """Measure; the long form repeats it more often."""
    rates: dict[str, dict[str, list[float]]] = {}
    equal: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _child("data", place)
        for algorithm in _AIMS:
            rates[algorithm] = {side: [] for side in ("ours", *_RIVALS)}
        for repeat in range(7 if full else 3):
            for algorithm, found in rates.items():
                for side, measured in found.items():
                    told = _child(f"{side} {algorithm}", place)
                    measured.append(told["rate"])
                    if repeat == 0 and side in _ROUNDS:
                        equal[f"{side} {algorithm}"] = told["digests"]
                    shutil.rmtree(place / "stores", ignore_errors=True)
    rows = []
    for algorithm, found in rates.items():
        rates_of = {side: statistics.median(measured) for side, measured in found.items()}
        aims: dict[str, float | None] = {"Ray": _AIMS[algorithm], "rebuild": None, "ceiling": 0.5}
        for side, rival in _RIVALS.items():
            extra: dict[str, Any] = {"repeats": {"ours": found["ours"], "rival": found[side]}}
            if side in _ROUNDS:
                extra |= _compared(equal[f"ours {algorithm}"], equal[f"{side} {algorithm}"])
            rows.append(
                Row(
                    case=f"{algorithm}: client updates a second, captured, against {side}",
                    ours=rates_of["ours"],
                    rival=rates_of[side],
                    rival_name=rival,
                    unit="1/s" if side != "ceiling" else "1/s (ratio: share of the ceiling)",
                    ratio=rates_of["ours"] / rates_of[side],
                    aim=aims[side],
                    aim_is="at_least",
                    extra=extra,
                )
            )
    return Result("shadows", tuple(rows))


def _compared(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> dict[str, Any]:
    """Say whether two sides captured the same, round by round as far as both went."""
    rounds = min(len(ours["shards"]), len(theirs["shards"]))
    same = [ours[part][:rounds] == theirs[part][:rounds] for part in ("header", "shards", "index")]
    return {
        "rounds_compared": rounds,
        "bytes_equal": ours["sizes"][:rounds] == theirs["sizes"][:rounds],
        "same_sha256": all(same),
    }


def _child(action: str, place: Path) -> Any:
    """Do one piece of work in a fresh process and return what it measured."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.shadows", action, str(place)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{action!r} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------ in the child


def _main(action: str, place: Path) -> None:
    if action == "data":
        from benchmarks._ser_federation import write_data

        write_data(place / "data", _CLIENTS)
        print(json.dumps({}))
        return
    side, algorithm = action.split()
    if side == "ceiling":
        from fl_privacy.training._parallel import run_jobs

        print(json.dumps({"rate": sum(run_jobs(_products, [_BATCHES[algorithm]] * 2, 2))}))
        return
    configurations = [
        {
            "data": str(place / "data"),
            "store": str(place / "stores" / f"{side}-{seed}"),
            "utility": str(place / "utility.json"),
            "seed": seed,
            "algorithm": algorithm,
            "num-server-rounds": _ROUNDS[side],
            "clients-per-round": _A_ROUND,
            "batch-size": 20,
            "learning-rate": 0.0,
            "local-epochs": 1,
            "dropout": 0.2,
            "fraction-evaluate": 0.0,
            "defenses": "[]",
            "observe": "each",
            "owns": "nothing: this is a benchmark",
            "capture-arrays": "null",
            "capture-clients": "null",
            "capture-every": 1,
            "capture-dtype": "float32",
            "checkpoint": "",
        }
        for seed in (1, 2)
    ]
    if side == "Ray":
        times = [_on_ray(configurations[0])]
    else:
        from fl_privacy.training._parallel import run_jobs

        times = run_jobs(_ours if side == "ours" else _rebuild, configurations, 2)
    begin, end = max(t[_COLD_ROUNDS - 1] for t in times), min(t[-1] for t in times)
    rounds = sum(sum(begin < moment <= end for moment in t) for t in times)
    rate = _A_ROUND * rounds / (end - begin)
    print(json.dumps({"rate": rate, "digests": _digests(Path(str(configurations[0]["store"])))}))


def _products(batches: tuple[int, ...], told: Any) -> float:
    """Return how many updates' worth of products this process does in a second."""
    import torch

    def products(n: int) -> Any:
        w1, w2, w3 = torch.randn(256, 988), torch.randn(128, 256), torch.randn(4, 128)
        g1, g2, g3 = torch.empty_like(w1), torch.empty_like(w2), torch.empty_like(w3)
        x, h1, h2, h3 = (torch.randn(n, width) for width in (988, 256, 128, 4))
        d1, d2 = torch.empty_like(h1), torch.empty_like(h2)

        def once() -> None:
            torch.mm(x, w1.t(), out=h1)
            torch.mm(h1, w2.t(), out=h2)
            torch.mm(h2, w3.t(), out=h3)
            torch.mm(h3.t(), h2, out=g3)
            torch.mm(h3, w3, out=d2)
            torch.mm(d2.t(), h1, out=g2)
            torch.mm(d2, w2, out=d1)
            torch.mm(d1.t(), x, out=g1)

        return once

    steps = [products(n) for n in batches]
    done, began = 0, time.monotonic()
    while time.monotonic() < began + _CEILING_SECONDS:
        for _ in range(20):
            for step in steps:
                step()
        done += 20
    return done / (time.monotonic() - began)


def _ours(configuration: dict[str, Any], told: Any) -> list[float]:
    from fl_privacy.sims.shadow_training import train_shadow

    times = _watch()
    train_shadow(Path(), _CLIENTS, configuration, told)
    return times


def _rebuild(configuration: dict[str, Any], told: Any) -> list[float]:
    from benchmarks._rebuild import rebuild
    from fl_privacy.sims.run_config import store_of
    from fl_privacy.sims.shadow_training import plan_of
    from fl_privacy.updates import ThreatModel, observation

    times = _watch()
    threat_model = ThreatModel(observes=observation(), owns=str(configuration["owns"]))
    rebuild(plan_of(configuration), store_of(configuration), threat_model)
    return times


def _on_ray(configuration: dict[str, Any]) -> list[float]:
    import logging

    import flwr.common.logger  # noqa: F401
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from benchmarks._ser_federation import configured
    from fl_privacy.sims import ser_server

    logging.getLogger("flwr").handlers = [logging.NullHandler()]
    times, server = _watch(), ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        # Flower's `run_simulation` takes no run configuration.
        ser_server.app(grid, Context(context.run_id, context.node_id, {}, context.state, configuration))

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, configured(configuration), _CLIENTS, backend_config=backend)  # type: ignore[arg-type]
    return times


def _watch() -> list[float]:
    """Note in this process when rounds are captured."""
    from fl_privacy.updates import UpdateStore

    times: list[float] = []
    append = UpdateStore.append

    def noted(self: UpdateStore, *arguments: Any, **named: Any) -> None:
        append(self, *arguments, **named)
        times.append(time.monotonic())

    UpdateStore.append = noted  # type: ignore[method-assign]
    return times


def _digests(store: Path) -> dict[str, list[Any]]:
    shards = sorted(store.glob("*.safetensors"))[: min(_ROUNDS.values())]
    return {
        "header": [hashlib.sha256((store / "store.json").read_bytes()).hexdigest()],
        "shards": [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards],
        "sizes": [shard.stat().st_size for shard in shards],
        "index": (store / "index.jsonl").read_text(encoding="utf-8").splitlines()[: len(shards)],
    }


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
