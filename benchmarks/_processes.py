"""CPU time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def tree(root: int) -> dict[int, list[str]]:
    """Return the fields of /proc/<pid>/stat behind the name, for a process and its descendants."""
    found: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
    members = {root} & found.keys()
    while more := {pid for pid, fields in found.items() if int(fields[1]) in members} - members:
        members |= more
    return {pid: found[pid] for pid in sorted(members)}


def cpu_seconds(root: int) -> float:
    """Return the CPU time, children that have ended included."""
    ticks = sum(int(tick) for fields in tree(root).values() for tick in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pids: list[int]) -> int:
    """Return the sum of RssAnon of those that live."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return total


class Peak:
    """The largest RssAnon of this process while the block runs, in bytes, sampled every 10 ms."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, anonymous_bytes([os.getpid()]))
