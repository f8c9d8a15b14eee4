"""Run a Flower app by `flwr run` on a SuperLink of its own: own home, own port, stopped by its process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


class SuperLink:
    """A running SuperLink in simulation mode."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = dict(environment)

    def run(self, app: Path, nodes: int, config: Mapping[str, Any], timeout: float = 150.0) -> dict[str, Any]:
        """Run an app to its end; return what `flwr ls` says of the run, as `flwr run` itself exits 0 when it fails."""
        known = {run["run-id"] for run in self.runs()}
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        printed = self._flwr(
            "run", str(app), "--stream", "--federation-config", federation, "--run-config", settings, timeout=timeout
        )
        (run,) = [run for run in self.runs() if run["run-id"] not in known]
        return {**run, "printed": printed}

    def runs(self) -> list[dict[str, Any]]:
        """Return every run that the SuperLink knows."""
        return json.loads(self._flwr("ls", "--format", "json", timeout=60.0))["runs"]

    def _flwr(self, *arguments: str, timeout: float) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def superlink(home: Path) -> Iterator[SuperLink]:
    """Start a SuperLink, and stop it and all that it started at the end."""
    home.mkdir(parents=True)
    ports = [_free_port(), _free_port()]
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Else Flower would resolve and download the app's dependencies for each run.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(ports[0]),
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(ports[0]), "--control-api-address", f"127.0.0.1:{ports[1]}"]
    with (home / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=environment,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{ports[0]}/health", home / "superlink.log")
        yield SuperLink(home, environment)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the SuperLink did not start:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:  # what it left in its session, such as processes of a run that was cut short
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
