"""A store's folder: taken, cut back, and its small files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fl_privacy.updates._files import HEADER, INDEX, StoreError


def refuse_used(path: Path) -> None:
    """Refuse a folder that holds anything.

    Raises
    ------
    StoreError
    """
    if (path / HEADER).exists() or (path / INDEX).exists():
        raise StoreError(f"{path} already holds captured updates; name another folder, or delete it")
    if path.is_dir() and any(path.iterdir()):
        raise StoreError(f"{path} holds other files; name an empty or new folder for the captured updates")


def claim(path: Path) -> None:
    """Make the folder, or take an empty one."""
    refuse_used(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Updates are personal data: only their owner may look.
        path.chmod(0o700)
        (path / INDEX).touch()
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error


def cut(path: Path, last: int) -> None:
    """Remove all behind a round, also what was being written."""
    try:
        # A line without its end is one that a killed process was writing.
        lines = (path / INDEX).read_text(encoding="utf-8").split("\n")[:-1]
        kept = [line for line in lines if json.loads(line)["round"] <= last]
        replace(path / INDEX, "".join(line + "\n" for line in kept))
        shards = {json.loads(line)["shard"] for line in kept}
        # What somebody else put there stays.
        written = [*path.glob("round-*.safetensors"), *path.glob(".*.part"), *([] if kept else [path / HEADER])]
        for file in written:
            if file.name not in shards:
                file.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be gone on with: {error}") from error


def replace(path: Path, text: str) -> None:
    """Write a text under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
