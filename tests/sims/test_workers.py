from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.sims.local import LocalGrid, run_simulation

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need Linux or macOS")


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def all_end(pids: list[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(running, pids))


# ------------------------------------------------------------------ same bytes


def federation() -> tuple[ServerApp, ClientApp, dict]:
    """Clients that draw, keep a state with arrays, and sometimes fail; and what the server saw."""
    client, server = ClientApp(), ServerApp()
    left: dict = {}

    @client.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        weights = message.content["arrays"]["w"].numpy()
        mine = context.state["mine"]["m"].numpy() if "mine" in context.state else np.zeros_like(weights)
        noise = torch.randn(weights.shape).numpy() + np.random.normal(size=weights.shape) + random.random()  # noqa: NPY002
        mine = (0.9 * mine + noise * number).astype(np.float32)
        context.state["mine"] = ArrayRecord({"m": Array(mine)})
        counts = context.state.setdefault("counts", MetricRecord({"n": 0}))
        counts["n"] += 1
        if (counts["n"] + number) % 5 == 0:
            raise ValueError(f"client {number} is tired")
        context.run_config["lr"] = 1e9  # its own copy, gone with the message
        answer = ArrayRecord({"w": Array((weights - 0.1 * mine).astype(np.float32))})
        metrics = MetricRecord({"num-examples": 1 + number, "n": counts["n"]})
        return Message(RecordDict({"arrays": answer, "metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: LocalGrid, context: Context) -> None:
        strategy = FedAvg(fraction_train=0.6, fraction_evaluate=0.0, min_train_nodes=6)
        seen: list = []
        plain = strategy.aggregate_train

        def aggregate(server_round: int, replies: list[Message]):
            replies = list(replies)
            seen.extend(r.error.reason if r.has_error() else r.content["arrays"]["w"].data for r in replies)
            return plain(server_round, replies)

        strategy.aggregate_train = aggregate  # type: ignore[method-assign]
        start = ArrayRecord({"w": Array(np.zeros((50, 7), np.float32))})
        left["arrays"] = strategy.start(grid, start, num_rounds=4).arrays["w"].data
        left["seen"] = seen
        left["clients"] = _flower.dump_records(grid.snapshot())

    return server, client, left


def test_any_number_of_workers_gives_the_same_bytes():
    def outcome(workers: int) -> dict:
        server, client, left = federation()
        run_simulation(server, client, 10, {"lr": 0.1}, seed=3, workers=workers)
        return left

    one = outcome(1)
    assert sum(isinstance(answer, str) for answer in one["seen"]) >= 2  # some did fail
    assert outcome(2) == one
    assert outcome(3) == one


# ------------------------------------------------------------------ one pool for many questions


def obliging() -> ClientApp:
    app = ClientApp()
    kept: list[RecordDict] = []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        todo = message.content["todo"]
        if context.node_config["partition-id"] == todo.get("who"):
            if todo["what"] == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            if todo["what"] == "exit":
                os._exit(3)
            if todo["what"] == "leave":
                sys.exit("enough")
            if todo["what"] == "raise":
                context.state["n"] = MetricRecord({"n": -1})
                raise ValueError("no microphone")
            if todo["what"] == "nothing":
                return None  # type: ignore[return-value]
            if todo["what"] == "sleep":
                time.sleep(0.5)
            if todo["what"] == "log":
                logging.getLogger("flwr").warning("client %d speaks", todo["who"])
        count = context.state["n"]["n"] + 1 if "n" in context.state else 1
        context.state["n"] = MetricRecord({"n": count})
        kept.append(message.content)
        for content in kept:
            content["seen"] = MetricRecord({"n": count, "pid": os.getpid(), "kept": len(kept)})
        if "a" in message.content:
            message.content["a"]["twice"] = Array(2 * message.content["a"]["w"].numpy())
        return Message(message.content, reply_to=message)

    return app


class Asked:
    """A grid over two workers, and what it told as replies came in."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.grid = LocalGrid(obliging(), 6, {}, seed=1, on_message=self.told.append, workers=2)

    def __call__(self, order: list[int], what: str = "", who: int = -1, **records) -> list[Message]:
        content = RecordDict({"todo": ConfigRecord({"what": what, "who": who}), **records})
        return list(self.grid.send_and_receive([Message(content, 1000 + i, "train") for i in order]))


@pytest.fixture(scope="module")
def ask():
    with _flower.run_identity(1):
        asked = Asked()
        with asked.grid:
            yield asked


def outcomes(answers: list[Message]) -> list:
    return [a.error.reason if a.has_error() else "fine" for a in answers]


def test_replies_come_in_the_order_of_the_messages_though_one_is_slow(ask):
    before = len(ask.told)
    answers = ask([4, 0, 4, 1, 9, 2], "sleep", 4)
    assert [a.metadata.src_node_id for a in answers] == [1004, 1000, 1004, 1001, 1009, 1002]
    assert outcomes(answers) == ["fine"] * 4 + ["no node 1009", "fine"]
    assert answers[2].content["seen"]["n"] == answers[0].content["seen"]["n"] + 1  # a client's own turn by turn
    assert len({a.content["seen"]["pid"] for a in answers if a.has_content()} | {os.getpid()}) == 3
    assert ask.told[before:] == ["train"] * 6


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raise", "ValueError: no microphone"),
        ("leave", "SystemExit: enough"),
        ("nothing", "TypeError: the ClientApp returned NoneType, not a Message"),
        ("segfault", "the worker process was killed by SIGSEGV while it served this client"),
        ("exit", "the worker process ended with exit status 3 while it served this client"),
    ],
)
def test_a_client_that_fails_or_kills_its_worker_is_an_error_reply_and_the_others_go_on(ask, what, reason):
    counts = [a.content["seen"]["n"] for a in ask([0, 1, 2])]
    answers = ask([0, 1, 2, 3, 4, 5], what, 1)
    assert outcomes(answers) == ["fine", reason, "fine", "fine", "fine", "fine"]
    after = [a.content["seen"]["n"] for a in ask([0, 1, 2])]
    assert after == [counts[0] + 2, counts[1] + 1, counts[2] + 2]  # what the failed client did to its state is lost


def test_a_worker_killed_while_idle_is_replaced_without_a_word(ask):
    pids = {a.content["seen"]["pid"] for a in ask([0, 1, 2, 3], "sleep", 0)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert all_end(list(pids))
    assert outcomes(ask([0, 1])) == ["fine", "fine"]


def test_clients_reach_neither_each_others_records_nor_the_servers(ask):
    arrays = ArrayRecord({"w": Array(np.arange(4.0)), "again": Array(np.ones((2, 0), np.float16))})
    listed = ConfigRecord({"list": [1, 2], "b": b"\0", "t": True})
    answers = ask([0, 1, 2, 3], a=arrays, c=listed)
    assert set(arrays) == {"w", "again"}
    for answer in answers:
        assert dict(answer.content["c"]) == {"list": [1, 2], "b": b"\0", "t": True}
        assert answer.content["a"]["twice"].numpy().tolist() == [0, 2, 4, 6]
        assert answer.content["a"]["w"] == arrays["w"]
        assert answer.content["a"]["again"] == arrays["again"]
    answers[0].content["c"]["list"].append(3)
    assert answers[1].content["c"]["list"] == [1, 2]
    assert listed["list"] == [1, 2]


def test_more_than_a_pipe_holds_travels_in_any_record(ask):
    big = ConfigRecord({"bytes": bytes(3_000_000), "text": "é" * 400_000})
    answers = ask([0, 1, 2, 3, 4, 5, 0, 1], big=big)
    assert outcomes(answers) == ["fine"] * 8
    assert all(a.content["big"] == big for a in answers)


def test_what_clients_log_is_logged_here(ask, caplog):
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    try:
        ask([0, 1], "log", 1)
    finally:
        logger.removeHandler(caplog.handler)
    told = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "flwr"]
    assert ("WARNING", "client 1 speaks") in told


def test_messages_from_several_threads_are_all_answered(ask):
    found: list = []
    threads = [threading.Thread(target=lambda i=i: found.extend(outcomes(ask([i, i])))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["fine"] * 8


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_shared_memory_is_used_again(ask):
    def shared(pid: int | str) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssShmem")).split()[1])

    def measured() -> int:
        arrays = ArrayRecord({"w": Array(np.random.default_rng(0).normal(size=150_000))})
        answers = ask([0, 1, 2, 3, 4, 5], "sleep", 0, a=arrays)
        return shared("self") + sum(shared(pid) for pid in {a.content["seen"]["pid"] for a in answers})

    for _ in range(4):
        before = measured()
    assert before > 4 * 1200  # it does go through shared memory
    for _ in range(8):
        after = measured()
    assert after <= before + 64


# ------------------------------------------------------------------ apps that cannot travel


def test_an_app_that_cannot_be_pickled_is_the_users_error():
    app, lock = ClientApp(), threading.Lock()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with lock:
            return Message(message.content, reply_to=message)

    with pytest.raises(UserError, match=r"cannot be sent to worker processes .*package\.module:name"):
        run_simulation(ServerApp(), app, 2, workers=2)


def test_an_app_of_a_module_that_workers_cannot_import_is_the_users_error(monkeypatch):
    module = types.ModuleType("only_here")
    exec("def train(message, context):\n    return message", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    app = ClientApp()
    app.train()(module.train)
    refused = pytest.raises(UserError, match="cannot load the ClientApp .*only_here")
    with _flower.run_identity(1), LocalGrid(app, 2, {}, workers=2) as grid, refused:
        grid.push_messages([Message(RecordDict(), 1000, "train")])


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers):
    with pytest.raises(UserError, match="workers"):
        run_simulation(ServerApp(), ClientApp(), 2, workers=workers)


# ------------------------------------------------------------------ nothing left behind

APP = """
import os, subprocess, sys, time
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app, client = ServerApp(), ClientApp()
found = []


@client.train()
def train(message, context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if pids := context.run_config.get("pids"):
        with open(pids, "a") as file:
            file.write(f"{os.getpid()} {child.pid}\\n")
        time.sleep(600)
    told = MetricRecord({"pids": [os.getpid(), child.pid]})
    return Message(RecordDict({"told": told}), reply_to=message)


@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), n, "train") for n in grid.get_node_ids()]
    for reply in grid.send_and_receive(messages):
        found.extend(reply.content["told"]["pids"])
    if context.run_config.get("fail"):
        raise RuntimeError("out of luck")
"""


def test_apps_by_reference_and_workers_and_their_children_end_when_the_server_fails(tmp_path, monkeypatch):
    (tmp_path / "apps_with_children.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        run_simulation("apps_with_children:app", "apps_with_children:client", 4, {"fail": True}, workers=2)
    found = sys.modules.pop("apps_with_children").found
    assert len(found) == 8
    assert os.getpid() not in found
    assert all_end(found)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_and_their_children_end_with_an_engine_that_is_interrupted_or_killed(tmp_path, how):
    (tmp_path / "apps_with_children.py").write_text(APP)
    script = tmp_path / "script.py"
    # No `if __name__ == "__main__"`: workers do not import the script.
    script.write_text(
        textwrap.dedent(f"""
        import signal
        from fl_privacy import run_simulation
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
        run_simulation(
            "apps_with_children:app", "apps_with_children:client", 2, {{"pids": {str(tmp_path / "pids")!r}}}, workers=2
        )
        """)
    )
    engine = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 90
        pids: list[int] = []
        while len(pids) < 4 and time.monotonic() < end and engine.poll() is None:
            time.sleep(0.1)
            if (tmp_path / "pids").exists():
                pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 4
        assert all(map(running, pids))
        os.killpg(engine.pid, how)  # as a terminal does for Ctrl-C
        engine.wait(30)
        assert all_end(pids)
    finally:
        engine.kill()
        engine.wait()


def test_an_error_of_the_servers_own_making_in_the_middle_of_a_round_leaves_a_grid_that_works():
    def told(kind: str) -> None:
        if angry:
            raise RuntimeError("not now")

    app, angry = ClientApp(), [True]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"m": MetricRecord({"pid": os.getpid()})}), reply_to=message)

    with _flower.run_identity(1), LocalGrid(app, 2, {}, on_message=told, workers=2) as grid:
        with pytest.raises(RuntimeError, match="not now"):
            grid.push_messages([Message(RecordDict(), 1000 + i, "train") for i in range(2)])
        angry.clear()
        (answer,) = grid.send_and_receive([Message(RecordDict(), 1001, "train")])
        assert running(answer.content["m"]["pid"])
    assert not running(answer.content["m"]["pid"])


def test_without_messages_no_process_is_started(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        assert len(list(grid.get_node_ids())) == 3

    run_simulation(server, ClientApp(), 3, workers=2)
