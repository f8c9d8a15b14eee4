"""The machine: cores, memory, disk, GPU; as a container's limits leave them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fl_privacy.sims.environment.finding import Finding
from fl_privacy.sims.environment.imports import Gpu

GB = 10**9
LOCAL_BYTES = int(1.3 * GB)
"""What a run on the local engine needs (the demo's processes together on two cores, measured)."""
RAY_BYTES = int(2.2 * GB)
"""What a simulation on Ray needs with two actors (measured)."""
STORE_BYTES = int(1.9 * GB)
"""What the demo writes."""
_RAY_SHARE = 0.3
"""Share of the memory that Ray takes for its object store, in /dev/shm where that is large enough."""


@dataclass(frozen=True)
class Limits:
    """What this process's control groups leave it; None for no limit.

    Attributes
    ----------
    cores : float or None
        Processor time a second.
    memory : int or None
        Bytes it may still take.
    """

    cores: float | None = None
    memory: int | None = None


def cgroup_limits(mount: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """Read the limits of this process's control groups, version 1 and 2.

    Parameters
    ----------
    mount : Path
        Where the control groups are mounted.
    own : Path
        The file that names those of this process.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    cores: list[float] = []
    memory: list[int] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        names = controllers.split(",")
        if not controllers:
            for folder in _upwards(mount, path):
                cores += _quota(_numbers(folder / "cpu.max"))
                memory += _left(folder, "memory.max", "memory.current", "inactive_file")
        if "cpu" in names:
            for folder in _upwards(mount / "cpu", path):
                quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
                cores += _quota([*quota, *period])
        if "memory" in names:
            for folder in _upwards(mount / "memory", path):
                memory += _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return Limits(min(cores, default=None), min(memory, default=None))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    # In a container the path may be the host's, which is not there: the mount itself is the container's group then.
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _numbers(file: Path) -> list[int]:
    """Return the whole numbers in a file; none where it is absent or says "max"."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def _quota(numbers: list[int]) -> list[float]:
    return [numbers[0] / numbers[1]] if len(numbers) == 2 and min(numbers) > 0 else []


def _left(folder: Path, limit: str, used: str, cached: str) -> list[int]:
    bounds, now = _numbers(folder / limit), _numbers(folder / used)
    if not bounds or not now or bounds[0] >= 2**60:  # version 1 says "no limit" by a huge number
        return []
    try:
        stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = int(stat.get(cached, 0))
    except (OSError, ValueError):
        reclaimable = 0
    return [max(bounds[0] - now[0] + reclaimable, 0)]


def available_memory(file: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes that can be taken without swapping; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None


def check_cores(cores: int, limit: float | None) -> Finding:
    """Compare the cores that the system shows with the processor time that it grants."""
    if limit is not None and limit < cores:
        found = f"{cores} are seen, but the control group grants the time of {limit:g}"
        return Finding("cores", "note", found, f"fl-privacy sweep --processes {max(int(limit), 1)}")
    return Finding("cores", "ok", str(cores))


def check_threads(environ: Mapping[str, str]) -> Finding:
    """Say whether libraries are held to one thread a process."""
    value = environ.get("OMP_NUM_THREADS", "")
    if value == "1":
        return Finding("OMP_NUM_THREADS", "ok", value)
    found = f"is {value}" if value else "not set"
    todo = "fl-privacy's own runs use one thread a process; for a `flwr run` by hand: export OMP_NUM_THREADS=1"
    return Finding("OMP_NUM_THREADS", "note", found, todo)


def check_memory(available: int | None, limit: int | None) -> Finding:
    """Compare the memory that can be had with what simulations need.

    Parameters
    ----------
    available, limit : int or None
        Bytes: what the system can give; what the control group still allows.
    """
    known = [size for size in (available, limit) if size is not None]
    if not known:
        return Finding("memory", "ok", "unknown: this system does not say")
    least, by = min(known), " (limit of the control group)" if limit is not None and limit == min(known) else ""
    found = f"{least / GB:.1f} GB to be had{by}"
    if least < LOCAL_BYTES:
        return Finding("memory", "problem", found, f"a run needs about {LOCAL_BYTES / GB:g} GB: end other programs")
    if least < RAY_BYTES:
        todo = f"a `flwr run` on Ray needs about {RAY_BYTES / GB:g} GB; fl-privacy's local engine does with less"
        return Finding("memory", "note", found, todo)
    return Finding("memory", "ok", found)


def check_shared_memory(free: int | None, available: int | None) -> list[Finding]:
    """Say whether Ray's object store fits into /dev/shm; nothing where there is none (bytes)."""
    if free is None:
        return []
    name = "/dev/shm"
    wanted = int(_RAY_SHARE * available) if available is not None else 0
    if free < wanted:
        found = f"{free / GB:.1f} GB free; Ray would take {wanted / GB:.1f} GB and use the disk instead: slow"
        todo = f"give more: docker run --shm-size={wanted / GB:.1f}gb; the local engine needs none"
        return [Finding(name, "note", found, todo)]
    return [Finding(name, "ok", f"{free / GB:.1f} GB free")]


def free_bytes(folder: Path) -> int | None:
    """Return the bytes free on the disk of a folder, or None where there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def check_folder(name: str, folder: Path, needs: int, todo: str, free: int | None = None) -> Finding:
    """Say whether a folder can be written to (or made), and whether its disk has room.

    Parameters
    ----------
    name : str
        What the folder is for.
    folder : Path
        It need not exist; nothing stays in it.
    needs : int
        Bytes that must be free.
    todo : str
        What to do where it does not serve.
    free : int, optional
        Bytes that are free, instead of asking the system.
    """
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        # Permission bits do not tell of read-only disks, and say nothing to an administrator.
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free if free is None else free
    except OSError as error:
        return Finding(name, "problem", f"{folder} cannot be written to ({error.strerror}: {there})", todo)
    if free < needs:
        return Finding(name, "problem", f"{free / GB:.2f} GB free at {folder}; {needs / GB:g} GB are needed", todo)
    return Finding(name, "ok", f"{folder}, {free / GB:.0f} GB free")


def check_gpu(gpu: Gpu | None) -> list[Finding]:
    """Say which GPU torch sees; nothing is said where torch cannot be imported."""
    if gpu is None:
        return []
    if gpu.name:
        return [Finding("gpu", "ok", f"{gpu.name}; not used: results are those of the CPU")]
    return [Finding("gpu", "ok", "none that torch can use; none is needed")]
