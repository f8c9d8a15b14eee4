"""What a sweep's report and table are made of: its cells, each with its result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import read_result
from fl_privacy.errors import UserError
from fl_privacy.report.files import read_scores
from fl_privacy.report.run import Run, printable


@dataclass(frozen=True)
class Swept:
    """One cell, as it stands in one grid.

    Attributes
    ----------
    grid : int
        Which of the sweep's grids.
    settings : mapping
        The keys that the grid varies, and their values.
    seeds : tuple of int
        Merged in the result.
    path : str
        Of its folder, in the sweep's; the same for a cell that stands in two grids.
    run : Run
        Its result, without scores.
    """

    grid: int
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    path: str
    run: Run


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, read.

    Attributes
    ----------
    root : Path
    cells : tuple of Swept
        In the order of ``sweep.json``.
    """

    root: Path
    cells: tuple[Swept, ...]

    @classmethod
    def read(cls, root: Path) -> Sweep:
        """Read ``sweep.json`` and the results that it lists.

        Raises
        ------
        UserError
            Where there is no sweep, or a file of it cannot be read.
        """
        path = root / "sweep.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            listed = [entry for entry in entries if "seeds" in entry]
        except OSError as error:
            raise UserError(f"no sweep to report on: {path}: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is no list of a sweep's cells ({error}); run the sweep again") from error
        runs = {entry["path"]: Run.of(read_result(root / entry["path"]), ()) for entry in listed}
        return cls(
            root,
            tuple(
                Swept(
                    entry.get("grid", 0),
                    printable(entry["settings"]),
                    tuple(entry["seeds"]),
                    printable(str(Path(entry["path"]).parent)),
                    runs[entry["path"]],
                )
                for entry in listed
            ),
        )

    @cached_property
    def distinct(self) -> tuple[Swept, ...]:
        """Every cell once, with all settings that it has in any grid."""
        found: dict[str, Swept] = {}
        for cell in self.cells:
            before = found.get(cell.path)
            settings = {**(before.settings if before else {}), **cell.settings}
            found[cell.path] = Swept(cell.grid, settings, cell.seeds, cell.path, cell.run)
        return tuple(found.values())

    @property
    def grids(self) -> list[list[Swept]]:
        """The cells of each grid."""
        numbers = dict.fromkeys(cell.grid for cell in self.cells)
        return [[cell for cell in self.cells if cell.grid == number] for number in numbers]

    def quoted(self) -> Iterator[tuple[Swept, Claim]]:
        """Yield the quoted claim of every attack in every cell that has one."""
        for cell in self.distinct:
            for attack in cell.run.attacks:
                claim = cell.run.quoted(attack)
                if claim is not None:
                    yield cell, claim

    def scores(self, cell: Swept) -> list[dict[str, str]]:
        """Return the rows of a cell's scores.csv."""
        return read_scores(self.root / cell.path / "scores.csv")


def short_names(keys: Sequence[str]) -> list[str]:
    """Return keys by their last part where that tells them apart."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def in_words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as ``key=value``, keys by their last part where that tells them apart."""
    return [f"{key}={plain(value)}" for key, value in zip(short_names(list(settings)), settings.values(), strict=True)]


def plain(value: Any) -> str:
    """Return a setting's value as it is told: text as it stands, named parts by their names, the rest as JSON."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and "name" in part for part in value):
        return " + ".join(_named(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items()) or "none"
    told = jsonable(value)  # an infinity has a word
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _named(part: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {plain(value)}" for key, value in part.items() if key != "name")
    return f"{part['name']} ({told})" if told else str(part["name"])
