"""What of Flower's runtimes needs no run: the keeper of processes, the generated app, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.errors import UserError
from fl_privacy.sims import _keeper, superlink
from fl_privacy.sims.superlink import SuperLink, free_port, write_app

# A tree as Flower and Ray make it: a process in a session of its own, whose parent has ended, and one that is deaf to
# polite requests.
TREE = """
import os, signal, subprocess, sys, time
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
orphan = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {sleeper!r}]).pid, flush=True)"
print(os.getpid(), flush=True)
subprocess.run([sys.executable, "-c", orphan], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def keeper(*command: str) -> list[str]:
    return [sys.executable, "-I", _keeper.__file__, *command]


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def tree(tmp_path: Path):
    """Start the tree under a keeper, by a parent of its own; give (parent, keeper's stdin closer, its processes)."""
    said = tmp_path / "said"
    parent = (
        "import subprocess, sys, time\n"
        f"kept = subprocess.Popen({keeper(sys.executable, '-c', TREE)!r}, stdin=subprocess.PIPE, "
        f"stdout=open({str(said)!r}, 'wb'), start_new_session=True)\n"
        "print(kept.pid, flush=True)\n"
        "sys.stdin.readline(); kept.stdin.close(); kept.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    kept = int(process.stdout.readline())
    assert until(lambda: said.exists() and {"ready", "up"} <= set(said.read_text().split()))
    processes = [kept, *(int(word) for word in said.read_text().split() if word.isdigit())]
    assert len(processes) == 3 and all(alive(p) for p in processes)
    yield process, processes
    process.kill()
    process.wait()
    for left in processes:
        if alive(left):
            os.kill(left, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="orphans are followed on Linux only")
@pytest.mark.parametrize("how", ["asked", signal.SIGKILL])
def test_everything_started_ends_with_the_parent_however_that_ends(tree, how) -> None:
    parent, processes = tree
    if how == "asked":
        parent.stdin.write("\n")
        parent.stdin.flush()
    else:
        parent.send_signal(how)
    assert until(lambda: not any(alive(p) for p in processes))


def test_a_keeper_ends_with_its_command_and_tells_its_status() -> None:
    kept = subprocess.Popen(keeper(sys.executable, "-c", "raise SystemExit(7)"), stdin=subprocess.PIPE)
    assert kept.wait(30) == 7


def test_flower_takes_the_generated_app(tmp_path: Path) -> None:
    config = {"data": 'C:\\a "b" c', "seed": 3, "rate": 0.0, "on": True, "json": '["naïve 𝄞", null]'}
    app = write_app(tmp_path / "app", "fl_privacy.sims.ser_server:app", "fl_privacy.clients.ser:app", config)
    written = tomllib.loads((app / "pyproject.toml").read_text())
    assert written["tool"]["flwr"]["app"]["config"] == config
    environment = SuperLink(tmp_path).environment()
    built = subprocess.run(
        ["flwr", "build", "--app", app], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert len(list(tmp_path.glob("fl-privacy.app.1-0-0.*.fab"))) == 1, built.stdout + built.stderr


def test_a_superlink_that_cannot_start_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(superlink, "free_port", lambda: 99_999)
    with pytest.raises(UserError, match=r"flower-superlink ended with status \d+\nThe whole log: .*flower\.log"):
        SuperLink(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["flower.log"]
    assert "65535" in (tmp_path / "flower.log").read_text()


def test_a_ray_cluster_that_is_not_there_is_refused(tmp_path: Path, monkeypatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"RAY_ADDRESS={address} does not answer"):
        SuperLink(tmp_path).__enter__()
    assert SuperLink(tmp_path).environment()["RAY_ADDRESS"] == address


@pytest.mark.parametrize("unset", [True, False])
def test_by_default_no_ray_but_its_own_and_no_shared_home(tmp_path: Path, monkeypatch, unset: bool) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    if unset:
        monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("FLWR_HOME", "/the/users/own")
    one, two = SuperLink(tmp_path / "one"), SuperLink(tmp_path / "two")
    assert one.environment()["RAY_ADDRESS"] == "local"
    assert one.environment()["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert len({one.environment()["FLWR_HOME"], two.environment()["FLWR_HOME"], "/the/users/own"}) == 3
    assert one.address != two.address
    found = subprocess.run(
        [sys.executable, "-c", "import fl_privacy; print(fl_privacy.__file__)"],
        cwd="/",
        env=one.environment(),
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()) == Path(superlink.__file__).parents[1] / "__init__.py"


@pytest.mark.parametrize("value", ["plain", "two words", 'a "b"', "it's", "C:\\x", "", 3, 0.5, True, '[{"a": 1}]'])
def test_flower_reads_run_configurations_back(value) -> None:
    from flwr.common.config import parse_config_args

    assert parse_config_args([superlink._pairs({"key": value, "other": 1})]) == {"key": value, "other": 1}


def test_a_value_that_flowers_command_line_cannot_carry_is_refused() -> None:
    with pytest.raises(UserError, match="key = .* holds both quotes"):
        superlink._pairs({"key": '"it\'s"'})
