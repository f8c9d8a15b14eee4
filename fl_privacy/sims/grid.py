"""The cells of a sweep: what varies, read into one simulation for every combination and seed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.attacks.question import SPEAKER
from fl_privacy.config import (
    ConfigError,
    FederatedSerFile,
    SimulationFile,
    SslMembershipFile,
    SweepSettings,
    load_any,
    parse_value,
)
from fl_privacy.report.swept import plain, short_names


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes
    ----------
    grid : int
        Which of the sweep's grids, from 0.
    settings : mapping
        The keys that this grid varies, and their values.
    files : tuple of SimulationFile
        One a seed.
    folder : Path
        Where its seeds' run folders and its merged result lie; one for all cells of the same files.
    """

    grid: int
    settings: Mapping[str, Any]
    files: tuple[SimulationFile, ...]
    folder: Path

    def run_folder(self, file: SimulationFile) -> Path:
        """Return the run folder of one seed."""
        return self.folder / f"seed-{file.simulation.seed}"


def cells_of(
    source: str | Path | Mapping[str, Any], settings: Sequence[str], sweep: SweepSettings, root: Path
) -> list[Cell]:
    """Return every cell of every grid.

    Parameters
    ----------
    source : str, Path or mapping
        As for `fl_privacy.config.load_any`. A cell's own file has no ``[sweep]``.
    settings : sequence of str
        Changes for all cells.
    sweep : SweepSettings
        What varies, and how many seeds.
    root : Path
        The sweep's folder.

    Raises
    ------
    ConfigError
        For an axis that cannot be read, or a simulation that cannot be.
    """
    found = []
    for number, (texts, count) in enumerate(sweep.grids):
        for chosen in _points(texts):
            changed: list[str | tuple[str, Any]] = [*settings, *chosen.items(), ("sweep", None)]
            first = load_any(source, changed).simulation.seed
            seeds = range(first, first + count)
            files = tuple(load_any(source, [*changed, ("simulation.seed", seed)]) for seed in seeds)
            _check_candidates(files)
            same = json.dumps([file.resolved() for file in files], sort_keys=True)
            found.append((number, chosen, files, same))
    names: dict[str, str] = {}
    for _, chosen, _, same in found:
        names.setdefault(same, _name(chosen, len(sweep.grids) > 1))
    if len(set(names.values())) < len(names):
        names = {same: f"{n:03d}_{name}" for n, (same, name) in enumerate(names.items())}
    return [Cell(number, chosen, files, root / names[same]) for number, chosen, files, same in found]


def _check_candidates(given: Sequence[SimulationFile]) -> None:
    """Refuse seeds that cannot be merged: who is held out is no candidate, and another seed holds out others."""
    if any(isinstance(file, SslMembershipFile) and file.protocol.name != "swap" for file in given[1:]):
        raise ConfigError(
            'several seeds of protocol.name = "tseng2022" have one encoder and the same speech, and are no independent '
            "runs: set sweep.seeds=1, or give each seed a run of its own"
        )
    files = [file for file in given if isinstance(file, FederatedSerFile) and file.private.attribute == SPEAKER]
    if not files:
        return
    folds = {f.simulation.seed % f.federation.folds if f.federation.fold is None else f.federation.fold for f in files}
    if len(folds) > 1:
        raise ConfigError(
            f"{len(files)} seeds of the attribute 'speaker' hold out different speakers, so that the candidates differ "
            "and no merged result can be made: set federation.fold (such as 0), the same for all seeds"
        )


def axis(text: str) -> list[dict[str, Any]]:
    """Read ``a.b=v1,v2`` or ``a.b+c.d=v1+w1,v2+w2`` into one dict of settings a point.

    Raises
    ------
    ConfigError
        Where it is not of that form, or names a value twice.
    """
    joined, separator, values = text.partition("=")
    keys = [key.strip() for key in joined.split("+")]
    if not separator or not all(keys) or not values.strip():
        raise ConfigError(f"axis {text!r} is not of the form section.key=value,value")
    if any(key.split(".")[0] == "sweep" for key in keys):
        raise ConfigError(f"axis {text!r}: what a sweep varies cannot itself vary")
    points = []
    for point in _split(values, ","):
        parts = _split(point, "+") if len(keys) > 1 else [point]
        if len(parts) != len(keys):
            raise ConfigError(f"axis {text!r}: {point!r} has {len(parts)} value(s) for {len(keys)} keys")
        points.append({key: parse_value(part) for key, part in zip(keys, parts, strict=True)})
    if any(point in points[:number] for number, point in enumerate(points)):
        raise ConfigError(f"axis {text!r} names a value twice")
    return points


def _points(axes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return every combination of a grid's axes."""
    read = [axis(text) for text in axes]
    keys = [key for points in read for key in points[0]]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"a grid varies {next(k for k in keys if keys.count(k) > 1)} twice")
    for combination in itertools.product(*read):
        yield {key: value for point in combination for key, value in point.items()}


def _name(chosen: Mapping[str, Any], keyed: bool) -> str:
    """Name a cell's folder after its values, and where there are other grids also after its keys."""
    keys = [f"{key}-" if keyed else "" for key in short_names(list(chosen))]
    return "_".join(key + _safe(plain(value)) for key, value in zip(keys, chosen.values(), strict=True)) or "all"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")[:60] or "x"


def _split(text: str, separator: str) -> list[str]:
    """Split outside of brackets and quotes."""
    parts, depth, quote, current = [], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character == separator and not depth and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]
