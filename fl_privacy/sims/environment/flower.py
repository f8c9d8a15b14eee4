"""What trips a `flwr run` started by hand. The local engine needs none of it."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_privacy.sims.environment.finding import Finding
from fl_privacy.sims.environment.machine import check_folder

PORT_VARIABLE = "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"
DEFAULT_PORT = "39091"
PROGRAMS = ("flwr", "flower-superlink", "flower-superexec", "flwr-simulation")
"""What a `flwr run` starts, each found on PATH by the one before."""


def check_home(environ: Mapping[str, str], home: Path) -> Finding:
    """Say whether Flower's folder can be written to."""
    folder = Path(environ.get("FLWR_HOME") or home / ".flwr")
    # Flower keeps there what it is asked to run and a database; both are small.
    return check_folder("FLWR_HOME", folder, 10**8, "export FLWR_HOME=/a/folder/you/can/write/to")


def check_installation(environ: Mapping[str, str]) -> Finding:
    """Say whether a `flwr run` would install the app's dependencies over this environment."""
    name = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"
    value = environ.get(name)
    if value == "1":
        return Finding("dependencies at run time", "ok", "not installed")
    found = "a `flwr run` installs the app's afresh, which then stand before the packages of this environment"
    if value is not None:
        found += f" ({name} is {value!r}; only 1 counts)"
    return Finding("dependencies at run time", "note", found, f"export {name}=1 before the SuperLink starts")


def check_calls_home(environ: Mapping[str, str]) -> Finding:
    """Say whether Flower tells its makers of runs and asks for updates."""
    off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    on = [f"{name}={value}" for name, value in off.items() if environ.get(name) != value]
    if on:
        found = "Flower reports use to its makers or asks for updates (without a network: in silence)"
        return Finding("telemetry", "note", found, f"to have it off: export {' '.join(on)}")
    return Finding("telemetry", "ok", "off, and the update check too")


def check_port(environ: Mapping[str, str], interpreters: Path) -> Finding:
    """Say who answers where a `flwr run` looks for its SuperLink.

    Parameters
    ----------
    environ : mapping
        Environment variables; the port is Flower's default where none is named.
    interpreters : Path
        Folder of this environment's Python, to tell its SuperLink from another's.
    """
    name, value = "SuperLink's port", environ.get(PORT_VARIABLE) or DEFAULT_PORT
    if not value.isdigit() or not 0 < int(value) < 65536:
        return Finding(name, "problem", f"{PORT_VARIABLE} is {value!r}, no port", f"export {PORT_VARIABLE}=39191")
    port = int(value)
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.4).close()
    except OSError:
        return Finding(name, "ok", f"{port}, free")
    pid, interpreter = _listener(port)
    who = f"process {pid}, {interpreter}" if pid else "process unknown"
    other = f"export {PORT_VARIABLE}=39191 to have one of your own"
    if not _healthy(port):
        return Finding(name, "problem", f"{port} is taken by something that is no SuperLink ({who})", other)
    stop = f"kill {pid}, or " if pid else ""
    if interpreter is not None and interpreter.parent.resolve() == interpreters.resolve():
        found = f"a SuperLink of this environment answers on {port} ({who}), with the folder and variables of its start"
        return Finding(name, "note", found, f"after a change of either: {stop}{other}")
    found = f"a SuperLink that is not known to be of this environment answers on {port} ({who}): it would take your run"
    return Finding(name, "problem", found, stop + other)


def _healthy(port: int) -> bool:
    """Ask as Flower does, but never through a proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.4)
    try:
        connection.request("GET", "/health")
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listener(port: int) -> tuple[int | None, Path | None]:
    """Return the process that listens on a local port and its interpreter, where the system shows them (Linux)."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        listening = "0A"
        sockets |= {f"socket:[{r[9]}]" for r in rows if r[3] == listening and int(r[1].rsplit(":", 1)[1], 16) == port}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        try:
            if any(os.readlink(link) in sockets for link in (process / "fd").iterdir()):
                return int(process.name), Path(os.fsdecode((process / "cmdline").read_bytes().split(b"\0")[0]))
        except OSError:
            continue  # another user's, or ended meanwhile
    return None, None


def check_proxy(environ: Mapping[str, str]) -> list[Finding]:
    """Say whether Flower would ask a proxy for the SuperLink on this machine; nothing where no proxy is set."""
    proxy = next((n for n in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if environ.get(n)), None)
    if proxy is None:
        return []
    spared = {host.strip() for n in ("no_proxy", "NO_PROXY") for host in environ.get(n, "").split(",")}
    if spared & {"127.0.0.1", "*"}:
        return [Finding("proxy", "ok", f"{proxy}, not for 127.0.0.1")]
    found = f"{proxy} is set: a `flwr run` asks the proxy for the SuperLink of this machine, and fails"
    return [Finding("proxy", "problem", found, 'export NO_PROXY="127.0.0.1,$NO_PROXY" (localhost does not do)')]


def check_programs(path: str | None, programs: Path, names: Iterable[str] = PROGRAMS) -> Finding:
    """Say whether Flower's programs on PATH are those of this environment.

    Parameters
    ----------
    path : str or None
        The value of ``PATH``.
    programs : Path
        Folder of this environment's programs.
    names : iterable of str
        The programs.
    """
    name, activate = "Flower's programs", f'export PATH="{programs}:$PATH"'
    found = {program: shutil.which(program, path=path or "") for program in names}
    missing = [program for program in found if not (programs / program).exists()]
    elsewhere = [p for p in found.values() if p is not None and Path(p).resolve().parent != programs.resolve()]
    if elsewhere:
        return Finding(name, "problem", f"PATH leads to another environment's: {', '.join(elsewhere)}", activate)
    if missing:
        reinstall = "pip install --force-reinstall --no-deps flwr"
        return Finding(name, "problem", f"not in {programs}: {', '.join(missing)}", reinstall)
    if any(there is None for there in found.values()):
        return Finding(name, "note", f"not on PATH; a `flwr run` needs them there ({', '.join(found)})", activate)
    return Finding(name, "ok", str(programs))


def check_checkout(folder: Path, imported: Path, code: str, installed: str | None) -> Finding:
    """Say whether the fl_privacy that is imported is the one in this folder, and the one that pip knows.

    Parameters
    ----------
    folder : Path
        The current folder.
    imported : Path
        The imported package's ``__init__.py``.
    code, installed : str
        Version that the code says, and that pip says (None: not installed).
    """
    name, package = "fl_privacy", imported.resolve().parent
    here = folder / "fl_privacy" / "__init__.py"
    if here.is_file() and here.resolve().parent != package:
        found = f"imported from {package}, not from the checkout in this folder, which new processes would take"
        return Finding(name, "problem", found, "pip install -e . here, or run from another folder")
    if installed is not None and installed != code:
        found = f"pip knows {installed}, but the code in {package} is {code}"
        return Finding(name, "note", found, "pip install (-e .) again")
    return Finding(name, "ok", f"{code} in {package}")


def check_app(folder: Path) -> list[Finding]:
    """Say what Flower would do to, or refuse about, an app in this folder; nothing where there is none."""
    file = folder / "pyproject.toml"
    try:
        flower: Any = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("flwr", {})
    except (OSError, ValueError):
        return []
    if not isinstance(flower, dict) or not flower:
        return []
    findings = []
    if "federations" in flower:
        found = "[tool.flwr.federations] is of older Flowers: `flwr run` rewrites this pyproject.toml"
        todo = "take the section out; `flwr run --federation-config 'num-supernodes=10 ...'` says the size"
        findings.append(Finding("Flower app here", "note", found, todo))
    name = folder.resolve().name
    if "app" in flower and not app_name_fits(name):
        found = f"`flwr run` refuses a folder of the name {name!r}"
        todo = "a letter first, then letters, digits and hyphens, 32 at most: rename the folder"
        findings.append(Finding("Flower app here", "problem", found, todo))
    return findings or [Finding("Flower app here", "ok", str(file))]


def app_name_fits(name: str) -> bool:
    """Say whether Flower takes a folder of this name for an app."""
    return name[:1].isalpha() and all(c.isalnum() or c == "-" for c in name) and len(name) <= 32


def check_ray_address(environ: Mapping[str, str]) -> Finding:
    """Say whether Ray would join a cluster instead of starting here."""
    address = environ.get("RAY_ADDRESS")
    if address and address != "local":
        found = f"{address}: a `flwr run` joins that cluster, or fails where none is"
        return Finding("RAY_ADDRESS", "note", found, "to start Ray here: unset RAY_ADDRESS")
    return Finding("RAY_ADDRESS", "ok", address or "not set")
