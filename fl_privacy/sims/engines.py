"""What a federation of SER clients runs on: the same ServerApp and ClientApp, on one of several runtimes."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.serverapp import Grid

from fl_privacy.errors import UserError
from fl_privacy.sims import ser_server
from fl_privacy.sims.local import run_simulation
from fl_privacy.sims.superlink import SuperLink, write_app
from fl_privacy.training.participation import learning_rate
from fl_privacy.updates.protocol import IDENTITY_QUERY, PARTITION, RECORD

SERVER_APP = "fl_privacy.sims.ser_server:app"
CLIENT_APP = "fl_privacy.clients.ser:app"
_PATIENCE_SECONDS = 30.0
_QUERY_TIMEOUT_SECONDS = 600.0
_OF_CLIENTS = ("seed", "algorithm", "batch-size", "local-epochs", "dropout")


class Engine(Protocol):
    """Runs one federation to its end."""

    def __call__(self, folder: Path, clients: int, run_config: UserConfig, trained: Callable[[int], None]) -> None:
        """Run it.

        Parameters
        ----------
        folder : Path
            For what the engine itself leaves, such as a log.
        clients : int
            Number of clients.
        run_config : dict
            See `fl_privacy.sims.ser_server` and `fl_privacy.clients.ser`.
        trained : callable
            Told from time to time how many updates have arrived.
        """


def local(folder: Path, clients: int, run_config: UserConfig, trained: Callable[[int], None], workers: int = 1) -> None:
    """Run it in this process, or over worker processes, with the same results."""
    count = itertools.count(1)

    def tell(message_type: str) -> None:
        if message_type == "train":
            trained(next(count))

    seed = int(run_config["seed"])
    run_simulation(SERVER_APP, CLIENT_APP, clients, run_config, seed=seed, workers=workers, on_message=tell)


def ray(folder: Path, clients: int, run_config: UserConfig, trained: Callable[[int], None]) -> None:
    """Run it in Flower's simulation on Ray."""
    app = write_app(folder / "app", SERVER_APP, CLIENT_APP, run_config)
    with SuperLink(folder) as superlink:
        superlink.run(app, supernodes=clients, watch=lambda: trained(_arrived(run_config)))
    shutil.rmtree(app)


ENGINES: Mapping[str, Engine] = {"local": local, "ray": ray}


def on_grid(grid: Grid, context: Context) -> Engine:
    """Return the engine that is whatever the Flower app runs on whose ServerApp was handed this grid.

    Its clients read the run configuration of the app, and their data from the folder that it names as ``data``, which
    is written where there is none (on a deployed federation a node's own ``data`` goes before it).

    Raises
    ------
    UserError
        By the engine: where the app's run configuration tells clients something else than they are meant to be told,
        where ``data`` holds another federation's data, and where nodes are missing or too many.
    """

    def engine(folder: Path, clients: int, run_config: UserConfig, trained: Callable[[int], None]) -> None:
        _check_told(context.run_config, run_config)
        data = Path(str(context.run_config["data"]))
        publish(Path(str(run_config["data"])), data)
        _check_nodes(grid, clients)
        own = Context(context.run_id, context.node_id, {}, RecordDict(), run_config | {"data": str(data)})
        with _watched(lambda: trained(_arrived(run_config))):
            ser_server.app(grid, own)

    return engine


def publish(source: Path, target: Path) -> None:
    """Copy a federation's data to where its clients read it, unless it is there.

    Raises
    ------
    UserError
        If something else is there, or it cannot be written.
    """
    names = sorted(path.name for path in source.iterdir())
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            part.chmod(0o700)  # voices, turned into numbers: only the owner may look
            os.replace(part, target)
        held = sorted(path.name for path in target.iterdir())
    except OSError as error:
        raise UserError(f"data: cannot write the clients' data to {target}: {error.strerror or error}") from error
    if held != names or filecmp.cmpfiles(source, target, names, shallow=False)[0] != names:
        raise UserError(f"data: {target} holds something else than this federation's data; name another, or delete it")


def _check_told(told: Mapping[str, Any], meant: Mapping[str, Any]) -> None:
    """Refuse a run whose clients would compute something else than result.json is going to say."""
    pairs = {key: (told.get(key), meant[key]) for key in _OF_CLIENTS}
    pairs["learning-rate"] = (learning_rate(told), learning_rate(meant))
    pairs["defenses"] = (json.loads(str(told["defenses"])), json.loads(str(meant["defenses"])))
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise UserError(
                f"run config: clients are told {key} = {theirs!r}, the simulation says {ours!r}: "
                f"give {key} by --run-config alone"
            )


def _check_nodes(grid: Grid, clients: int) -> None:
    """Wait for the SuperNodes, and see that each client has one."""
    nodes: list[int] = []
    arrived = time.monotonic()
    while len(nodes) < clients and time.monotonic() < arrived + _PATIENCE_SECONDS:
        now = list(grid.get_node_ids())
        if len(now) != len(nodes):
            nodes, arrived = now, time.monotonic()
        else:
            time.sleep(0.1)
    if len(nodes) != clients:
        raise UserError(
            f"this federation has {clients} clients, and needs as many SuperNodes: there are {len(nodes)}. In a "
            f"simulation: --federation-config 'num-supernodes={clients} client-resources-num-cpus=1'"
        )
    questions = [Message(RecordDict(), dst_node_id=node, message_type=IDENTITY_QUERY) for node in nodes]
    partitions: list[Any] = []
    for answer in grid.send_and_receive(questions, timeout=_QUERY_TIMEOUT_SECONDS):
        said: Mapping[str, Any] = answer.content.config_records.get(RECORD, {}) if answer.has_content() else {}
        partitions.append(said.get(PARTITION))
    if sorted(partitions, key=str) != sorted(range(clients), key=str):
        raise UserError(
            f"each SuperNode needs a partition-id of its own from 0 to {clients - 1} (flower-supernode --node-config "
            f"'partition-id=0'); they say: {', '.join(sorted(map(str, partitions)))}"
        )


def _arrived(run_config: Mapping[str, Any]) -> int:
    """Return how many updates are in the store by now."""
    try:
        # One line a round.
        rounds = (Path(str(run_config["store"])) / "index.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
    return rounds * int(run_config["clients-per-round"])


@contextmanager
def _watched(watch: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            watch()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        watch()
