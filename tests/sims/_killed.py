"""Run as a script: kill a run at random moments, run it again, and compare the end with an undisturbed run's."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

# Imported before the fork, so that a child's time is its work.
import sklearn.linear_model  # noqa: F401
import torchaudio  # noqa: F401

from fl_privacy.clients import ser  # noqa: F401
from fl_privacy.features import functionals  # noqa: F401
from fl_privacy.report import run as report_run  # noqa: F401
from fl_privacy.sims import ser_server  # noqa: F401
from fl_privacy.sims.run import run

SETTINGS = {
    "simulation": {"kind": "federated-ser", "seed": 3},
    "private": {"corpus": "synthetic", "options": {"speakers": 10, "utterances": 4, "seed": 1}},
    "auxiliary": [{"corpus": "synthetic", "options": {"speakers": 8, "utterances": 4, "seed": 2}}],
    "federation": {"rounds": 6, "folds": 2, "clients_per_round": 3},
    "attack": [{"name": "input-reconstruction"}, {"name": "raw-linear"}],
    "audit": {"permutations": 4},
}


def fingerprint(folder: Path) -> dict[str, str]:
    """Hash what a run leaves: result, scores, report and every file of its stores."""
    files = [folder / name for name in ("result.json", "scores.csv", "report.html")]
    files += sorted(folder.glob("*/updates/*"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


class Told:
    """Counts what a run tells of its progress, and has the process killed a moment after it has told so much.

    By the clock alone a busy machine would put all kills into the first stage.
    """

    def __init__(self, kill_at: int | None = None, delay: float = 0.0) -> None:
        self.count, self._kill_at, self._delay = 0, kill_at, delay

    def __call__(self, what: str, done: int, total: int) -> None:
        self.count += 1
        if self.count == self._kill_at:
            threading.Timer(self._delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def child(folder: Path, cache: Path, told: Told, count: Path | None = None) -> bool:
    """Run in a forked process; say whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        os.environ["FL_PRIVACY_CACHE"] = str(cache)
        try:
            run(SETTINGS, out=folder, progress=told)
            if count is not None:
                count.write_text(str(told.count))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a run failed")
    return os.WIFEXITED(status)


def main(place: Path, kills: int) -> None:
    """Print which of the killed runs ended differently, and how many stages the kills fell into."""
    start = time.perf_counter()
    child(place / "whole", place / "cache", Told(), place / "count")
    events = int((place / "count").read_text())
    gap = (time.perf_counter() - start) / events
    wanted = fingerprint(place / "whole")
    rng = random.Random(0)
    differs, tries, seen = [], 0, set()
    for number in range(kills):
        # Spread over the run, jittered: every stage is hit. A run that was through before the kill does not count.
        at = 1 + int((number + rng.random()) / kills * events)
        while True:
            tries += 1
            folder, cache = place / f"run-{tries}", place / f"cache-{tries}"
            if not child(folder, cache, Told(at, 3 * gap * rng.random())):
                break
            at = max(1, at - 1)
        done = folder / ".done"
        seen.add(len(list(done.iterdir())) if done.exists() else 0)
        child(folder, cache, Told())
        if fingerprint(folder) != wanted:
            differs.append(number)
    print(json.dumps({"differs": differs, "killed": kills, "stages": len(seen), "tries": tries}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
