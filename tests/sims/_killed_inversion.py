"""Run as a script: an inversion of a few invented voices that kills itself at a moment of its progress."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fl_privacy.attacks.inversion import checkpoint
from fl_privacy.sims.run import run

QUICK = {"iterations": 6, "patience": 5}
SETTINGS = {
    "simulation": {"kind": "speaker-inversion", "seed": 2},
    "private": {"corpus": "synthetic", "options": {"speakers": 10, "utterances": 4, "seed": 1}},
    "people": {"classes": 5},
    # A training keeps a checkpoint every 200 steps.
    "target": {"size": "small", "steps": 210, "batch_size": 4, "optimiser": "adam"},
    "attack": [
        {"name": "standard", "starts": ["laplace", "white"], **QUICK},
    ],
    "countermeasure": [{"name": "rounding"}],
    "queries": {"identities": 3, "pairs": 2, "iterations": 2},
    "judges": {"steps": 3, "crop_frames": 20, "other_seed": False},
    "audit": {"permutations": 19},
}


def main(folder: Path, what: str, least: int) -> None:
    """Run until so much of something is done, then die without a word; queues are kept after every step."""
    checkpoint.SECONDS = 0.0

    def progress(doing: str, done: int, total: int) -> None:
        if doing == what and done >= least:
            os.kill(os.getpid(), signal.SIGKILL)

    run(SETTINGS, out=folder, progress=progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
