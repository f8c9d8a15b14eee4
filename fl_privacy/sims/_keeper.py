"""Run a command, and stop it with everything it started when its keeper's parent ends, however that ends.

Started as a script, with the command as its arguments and a pipe from its parent as standard input. The pipe closes
when the parent lets go of it, and when it is killed. Flower and Ray start processes in sessions of their own, which
neither a signal to a process group nor the end of their parent reaches; on Linux the keeper adopts whatever in its
tree loses its parent, so that nothing leaves the tree.

Standard library only: it runs before anything else is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Run the command; return its exit status, or 0 where it was stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid
    code = None
    while code is None and not stopped:
        if select.select([0], [], [], 0.1)[0] and not os.read(0, 4096):
            stopped.append(0)
        code = _reap(child)
    if code is None:
        os.kill(child, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while _reap(child) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        code = 0
    _stop(_descendants())
    return code


def _reap(child: int) -> int | None:
    """Take leave of every child that has ended; return the status of the one that is asked for, if it is among them."""
    # Flower watches for the end of a parent by its id: one that nobody took leave of would look alive.
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = os.waitstatus_to_exitcode(ended[1])
    return status


def _stop(left: set[int]) -> None:
    """Ask what is left to end, then end it."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        _send(left, number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            _reap(-1)
            now = _descendants()
            _send(now - left, number)  # started while the others ended
            left = now


def _send(processes: Iterable[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _descendants() -> set[int]:
    """Return all processes below this one."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    found: set[int] = set()
    front = [os.getpid()]
    while front:
        front = [child for process in front for child in children.get(process, []) if child not in found]
        found.update(front)
    return found


def _parents() -> list[tuple[int, int]]:
    """Return (process, parent) of every process on the machine that has not ended."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
        return [(int(line.split()[0]), int(line.split()[1])) for line in listed.stdout.splitlines()]
    pairs = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                pairs.append((int(entry.name), int(parent)))
    return pairs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
