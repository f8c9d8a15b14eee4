"""Stages of a run: each is done once, and one that was cut off starts again from nothing.

A stage writes into its own folder. When it is through, a marker is written beside it; a folder without its marker is
what a killed run left, and is removed. So the same command after a kill at any moment gives the same end.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_privacy.audit.files import write_atomically
from fl_privacy.config.differences import differences, in_lines
from fl_privacy.errors import UserError
from fl_privacy.sims._logs import logs_to

logger = logging.getLogger(__name__)
_SETTINGS = "simulation.json"
_TIMINGS = "timings.json"
_LOG = "log.txt"


class RunFolder:
    """A run's folder, held by one process at a time.

    Parameters
    ----------
    path : Path
        Made where there is none.
    settings : dict
        The resolved simulation; a folder that holds another is refused.

    Raises
    ------
    UserError
        If the folder cannot be written, holds something else, or is in use.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = settings

    @contextmanager
    def held(self) -> Iterator[RunFolder]:
        """Hold the folder, and keep its log, while the block runs."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # It says who is who: only the owner may look.
            self.path.chmod(0o700)
            lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror or error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.path} is in use by another run") from None
            self._claim()
            with logs_to(self.path / _LOG):
                yield self

    def _claim(self) -> None:
        path = self.path / _SETTINGS
        text = json.dumps(self._settings, indent=1, sort_keys=True) + "\n"
        if path.exists():
            held = path.read_text(encoding="utf-8")
            if held == text:
                return
            if self._begun():
                told = in_lines(differences(json.loads(held), self._settings))
                raise UserError(
                    f"{self.path} holds a run with other settings:\n{told}\nName another folder (--out), or delete it"
                )
        strange = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        if strange and not path.exists():
            raise UserError(f"{self.path} holds other files ({', '.join(strange[:3])}); name an empty or new --out")
        try:
            write_atomically(path, text)
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror or error}") from error

    def _begun(self) -> bool:
        """Whether anything is there that other settings would spoil: not so where a run was refused at its start."""
        for entry in self.path.iterdir():
            empty = entry.is_dir() and not any(entry.iterdir())
            if not empty and entry.name not in (_SETTINGS, ".lock", _LOG):
                return True
        return False

    def done(self, name: str) -> bool:
        """Whether a stage is through."""
        return self._marker(name).exists()

    def undo(self, name: str) -> None:
        """Let a stage be done again."""
        self._marker(name).unlink(missing_ok=True)

    def stage(self, name: str, work: Callable[[Path], None], go_on: str | None = None) -> Path:
        """Do a stage unless it is done, and return its folder.

        Parameters
        ----------
        name : str
            Path of the stage's folder in the run folder.
        work : callable
            Does it, in the folder that it is given.
        go_on : str, optional
            Name of a file with which a folder that was cut off is of use to `work`; without that file it is removed.
        """
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise UserError(f"{name!r} cannot be the name of a stage")
        folder = self.path / name
        if self.done(name):
            return folder
        if folder.exists():
            if go_on and (folder / go_on).exists():
                logger.warning("%s was cut off before: it goes on", name)
            else:
                logger.warning("%s was cut off before: it starts again", name)
                shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("%s: begins", name)
        start = time.perf_counter()
        work(folder)
        seconds = time.perf_counter() - start
        self._note_time(name, seconds)
        logger.info("%s: done in %.1f s", name, seconds)
        marker = self._marker(name)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        return folder

    def _marker(self, name: str) -> Path:
        return self.path / ".done" / name.replace("/", "__")

    def _note_time(self, name: str, seconds: float) -> None:
        # Wall times differ from run to run: they stay out of result.json, which does not.
        path = self.path / _TIMINGS
        times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_atomically(path, json.dumps(times | {name: round(seconds, 3)}, indent=1) + "\n")


def new_folder(path: Path) -> None:
    """Make a folder that only its owner may look into, or take an empty one.

    Raises
    ------
    UserError
        If it holds anything or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        held = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}") from error
    if held:
        raise UserError(f"{path} holds other files ({', '.join(held[:3])}); name an empty or new --out")


def remove(path: Path) -> None:
    """Remove a folder in a way that leaves, when cut off, nothing that looks whole."""
    if path.exists():
        grave = path.with_name(f".{path.name}.removed")
        if grave.exists():
            shutil.rmtree(grave)
        os.replace(path, grave)
        shutil.rmtree(grave)
