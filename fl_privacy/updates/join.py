"""One store out of several that were written side by side, each with other rounds of the same capture."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fl_privacy.updates._files import HEADER, INDEX, StoreError
from fl_privacy.updates._folder import refuse_used


def join_stores(parts: Sequence[Path], path: Path) -> None:
    """Move the rounds of several stores into one, the same to the byte as if one process had written it.

    Parameters
    ----------
    parts : sequence of Path
        Closed stores; gone afterwards.
    path : Path
        The new store: a folder that is not there, or is empty.

    Raises
    ------
    StoreError
        If the folder is in use, the parts hold a round twice, or they were captured with different settings.
    """
    refuse_used(path)
    held = [part for part in parts if (part / HEADER).exists()]  # one without rounds has no header
    if not held:
        raise StoreError(f"none of the parts of {path} holds a round")
    headers = {(part / HEADER).read_bytes() for part in held}
    lines = [line for part in held for line in (part / INDEX).read_text(encoding="utf-8").splitlines()]
    rounds = [json.loads(line)["round"] for line in lines]
    if len(headers) > 1 or len(set(rounds)) < len(rounds):
        raise StoreError(f"the parts of {path} do not belong together: {', '.join(str(part) for part in held)}")
    first = held[0]
    try:
        for part in held[1:]:
            for shard in sorted(part.glob("round-*.safetensors")):
                os.replace(shard, first / shard.name)
        index = "".join(f"{line}\n" for _, line in sorted(zip(rounds, lines, strict=True)))
        (first / INDEX).write_text(index, encoding="utf-8")
        os.replace(first, path)  # whole from one moment to the next
        for part in parts:
            if part.exists():
                shutil.rmtree(part)
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error
