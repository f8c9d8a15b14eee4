"""Flower's own runtimes, run by ``flwr run`` under a SuperLink of our own: its simulation on Ray, and its deployment.

Nothing of it is shared with the user's own Flower: the SuperLink has its own home folder and port, and is stopped when
the block ends, with everything that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from flwr.app import UserConfig

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.report.toml import dumps
from fl_privacy.sims import _keeper

_START_SECONDS = 120.0
_CONNECTION = "own"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception)\b: .+")
_LICENSE = "Written by fl-privacy for one run, and for nothing else.\n"


class SuperLink:
    """A SuperLink on loopback, for as long as the block runs.

    Parameters
    ----------
    folder : Path
        Has ``flower/`` while the block runs: the home folders that Flower keeps its state in.
    simulation : bool
        Whether apps run in Flower's simulation on Ray, or, if false, on SuperNodes (see `supernode`).
    log : Path, optional
        File for what Flower, Ray and the apps say; by default ``flower.log`` in the folder. It stays.

    Attributes
    ----------
    address : str
        Host and port.

    Raises
    ------
    UserError
        If it does not start, or ``RAY_ADDRESS`` does not answer.

    Notes
    -----
    Apps run in this interpreter's environment, with this process's import path, with one thread a process, and
    nothing is installed for them. Where ``RAY_ADDRESS`` names a Ray cluster, a simulation runs on it; where it does
    not, on a Ray of its own, even if Ray has been started on this machine.
    """

    def __init__(self, folder: Path, *, simulation: bool = True, log: Path | None = None) -> None:
        folder = folder.resolve()  # Flower's processes have working directories of their own
        self.log = log.resolve() if log else folder / "flower.log"
        self._homes = folder / "flower"
        self._simulation = simulation
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._stack = ExitStack()
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> SuperLink:
        if self._simulation:
            _check_ray(os.environ.get("RAY_ADDRESS", ""))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._homes, ignore_errors=True)
            # A simulation's apps talk to each other in one process: the state is no more than the run's status.
            kind = ["--simulation"] if self._simulation else []
            self._start(
                stack,
                "flower-superlink",
                [*kind, "--insecure", "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(self._port)],
                self.environment(),
            )
            self._wait_until_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def environment(self, home: str = "superlink") -> dict[str, str]:
        """Return the environment of a Flower process with one of this SuperLink's home folders.

        ``flwr`` called with it has this SuperLink as its default connection.
        """
        folder = self._homes / home
        folder.mkdir(parents=True, exist_ok=True)
        # With an address, and not ":local:": there, `flwr` would start a SuperLink of its own where ours has died.
        connection = {_CONNECTION: {"address": self.address, "insecure": True}}
        (folder / "config.toml").write_text(dumps({"superlink": {"default": _CONNECTION, **connection}}))
        # Flower starts its parts by their bare names, which need not be on the path of who started us.
        scripts = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
        return {
            **os.environ,
            # Unset, Ray takes up with whatever cluster has been started on this machine.
            "RAY_ADDRESS": os.environ.get("RAY_ADDRESS") or "local",
            "PATH": os.pathsep.join(dict.fromkeys([*scripts, os.environ.get("PATH", os.defpath)])),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path)),
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            # Otherwise each run downloads the app's dependencies, and puts them before what is installed.
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
        }

    def supernode(
        self, partition: int, partitions: int, settings: Mapping[str, str | int | float] | None = None
    ) -> None:
        """Start a SuperNode on loopback; it ends with the SuperLink.

        Parameters
        ----------
        partition, partitions : int
            Its ``partition-id`` and ``num-partitions``.
        settings : mapping, optional
            What else its apps find in ``context.node_config``.
        """
        config = {"partition-id": partition, "num-partitions": partitions, **(settings or {})}
        arguments = ["--insecure", "--superlink", self.address, "--host", "127.0.0.1", "--port", str(free_port())]
        name = f"supernode-{partition}"
        self._start(
            self._stack, "flower-supernode", [*arguments, "--node-config", _pairs(config)], self.environment(name)
        )

    def run(
        self,
        app: Path,
        run_config: UserConfig | None = None,
        *,
        supernodes: int | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Run an app to its end.

        Parameters
        ----------
        app : Path
            Folder of a Flower app.
        run_config : dict, optional
            What its run configuration says otherwise than its ``pyproject.toml``.
        supernodes : int, optional
            For a simulation: number of clients.
        watch : callable, optional
            Called about twice a second.

        Raises
        ------
        UserError
            If the run fails: with what the app said, and where the log is.
        """
        command = ["run", str(app)]
        if supernodes is not None:
            command += ["--federation-config", f"num-supernodes={supernodes} client-resources-num-cpus=1"]
        if run_config:
            command += ["--run-config", _pairs(run_config)]
        begin = self.log.stat().st_size
        run = self._ask(command)["run-id"]
        # It ends when the run does, with status 0 whether that failed or not.
        with self._keeper("flwr", ["log", run, "--stream"], self.environment()) as stream:
            while stream.poll() is None:
                self._check_alive()
                if watch:
                    watch()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    stream.wait(0.5)
        if watch:
            watch()
        end = self._ask(["ls", "--run-id", run])["runs"][0]
        if end["status"] != _flower.RUN_COMPLETED:
            said = _flower.failure(end["status-details"]) or self._last_error(begin) or f"it is {end['status']}"
            raise self._failure(f"Flower's run failed: {said}")

    def _ask(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return what ``flwr`` answers to a question."""
        asked = subprocess.run(
            [_program("flwr", self.environment()), *arguments, "--format", "json"],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(asked.stdout)
        except ValueError:
            answer = {"error-message": (asked.stdout + asked.stderr)[-300:]}
        if not answer.get("success"):
            # It begins with which SuperLink it asked.
            said = re.sub(r"^Using SuperLink: .*\n", "", str(answer.get("error-message")))
            raise self._failure(f"`flwr {arguments[0]}` failed: {' '.join(said.split())}")
        return answer

    def _start(self, stack: ExitStack, program: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._started.append((program, stack.enter_context(self._keeper(program, arguments, environment))))

    @contextmanager
    def _keeper(
        self, program: str, arguments: Sequence[str], environment: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program that ends, with all it started, with the block or with this process."""
        command = [sys.executable, "-I", _keeper.__file__, _program(program, environment), *arguments]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in our own time
            )
        try:
            yield process
        finally:
            with contextlib.suppress(BrokenPipeError):
                _standard_input(process).close()
            process.wait()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(OSError, urllib.error.URLError), _open(f"http://{self.address}/health"):
                return
            time.sleep(0.1)
        raise self._failure(f"flower-superlink did not start within {_START_SECONDS:.0f} s")

    def _check_alive(self) -> None:
        for program, process in self._started:
            if process.poll() is not None:
                raise self._failure(f"{program} ended with status {process.returncode}")

    def _failure(self, what: str) -> UserError:
        return UserError(f"{what}\nThe whole log: {self.log}")

    def _last_error(self, begin: int) -> str:
        """Return the last line that ends an exception's traceback in the log of one run, and says something."""
        lines = _COLOURS.sub("", self.log.read_bytes()[begin:].decode("utf-8", "replace")).splitlines()
        errors = [line.strip() for line in lines if _ERROR_LINE.fullmatch(line.strip())]
        return next((error[-300:] for error in reversed(errors) if _flower.says_something(error)), "")


def write_app(folder: Path, server_app: str, client_app: str, run_config: UserConfig) -> Path:
    """Write a Flower app whose parts are modules that can be imported, and return its folder.

    Parameters
    ----------
    folder : Path
        Made; its name is of letters, digits and hyphens, as Flower asks for.
    server_app, client_app : str
        ``"package.module:app"``.
    run_config : dict
        Its run configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text(_LICENSE, encoding="utf-8")
    project = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {
            "name": folder.name,
            "version": "1.0.0",
            "description": "One run of fl-privacy",
            "license": {"file": "LICENSE"},
            "dependencies": ["flwr[simulation]>=1.41"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fl-privacy",
                    "fab-format-version": 1,
                    "flwr-version-target": "1.41.0",
                    "components": {"serverapp": server_app, "clientapp": client_app},
                    "config": dict(run_config),
                }
            }
        },
    }
    (folder / "pyproject.toml").write_text(dumps(project), encoding="utf-8")
    return folder


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str, environment: Mapping[str, str]) -> str:
    found = shutil.which(name, path=environment["PATH"])
    if found is None:
        raise UserError(f"there is no program {name!r} beside {sys.executable}: install 'flwr[simulation]' there")
    return found


def _pairs(settings: Mapping[str, Any]) -> str:
    """Write settings as Flower's command line takes them: TOML values, a string without quotes of its kind in it."""
    pairs = []
    for key, value in settings.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, str):
            quote = next((q for q in "'\"" if q not in value and (q == "'" or "\\" not in value)), None)
            if quote is None or "\n" in value:
                raise UserError(f"{key} = {value!r} cannot be given on Flower's command line: it holds both quotes")
            text = f"{quote}{value}{quote}"
        pairs.append(f"{key}={text}")
    return " ".join(pairs)


def _check_ray(address: str) -> None:
    """Refuse a Ray cluster that is not there: Ray would try to reach it for many minutes, and say nothing."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address} does not answer ({error.strerror or error}): start that Ray cluster, or unset it"
        ) from error


def _open(url: str) -> Any:
    # Loopback never goes through a proxy.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2)


def _standard_input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
