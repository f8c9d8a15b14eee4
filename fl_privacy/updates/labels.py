"""The file beside a store that says whose each client is: read by the audit, never by an attack on the private side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_privacy.errors import UserError


class LabelsError(UserError):
    """A label file that cannot be read or does not fit its store."""


@dataclass(frozen=True)
class Labels:
    """Speaker and attributes of each client.

    Attributes
    ----------
    rows : Mapping[str, Mapping[str, str]]
        Client pseudonym -> its columns. ``speaker`` is always present (the client itself where the file names none).
        Columns ``examples`` (number of local examples) and ``share_*`` (class shares) feed the blind baselines.
    """

    rows: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, path: str | Path) -> Labels:
        """Read a CSV file with the column ``client``, optionally ``speaker``, and attribute columns.

        Raises
        ------
        LabelsError
            If the file or a column is missing, or a client stands there twice.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or []
                if "client" not in columns:
                    raise LabelsError(f"{path}: no column 'client'; it has: {', '.join(columns) or 'nothing'}")
                twice = sorted({column for column in columns if columns.count(column) > 1})
                if twice:
                    raise LabelsError(f"{path}: column(s) {', '.join(twice)} stand there twice")
                rows: dict[str, dict[str, str]] = {}
                for row in reader:
                    client = (row.pop("client") or "").strip()
                    if not client:
                        raise LabelsError(f"{path}, line {reader.line_num}: the client's name is empty")
                    if client in rows:
                        raise LabelsError(f"{path}, line {reader.line_num}: client {client!r} stands there twice")
                    rows[client] = {k: (v or "").strip() for k, v in row.items() if k is not None}
                    rows[client].setdefault("speaker", client)
                    rows[client]["speaker"] = rows[client]["speaker"] or client
        except FileNotFoundError:
            raise LabelsError(f"no label file {path}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise LabelsError(f"{path} cannot be read: {error}") from error
        if not rows:
            raise LabelsError(f"{path} names no client")
        return cls(rows)

    def write(self, path: str | Path) -> None:
        """Write the labels as CSV, clients in their own order."""
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["client", *columns])
            for client, row in self.rows.items():
                writer.writerow([client, *(row.get(column, "") for column in columns)])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that some client has."""
        return tuple(dict.fromkeys(column for row in self.rows.values() for column in row))

    def of(self, clients: Sequence[str], column: str) -> list[str]:
        """Look one column up for a list of clients.

        Raises
        ------
        LabelsError
            If a client or its value is missing.
        """
        if column not in self.columns:
            raise LabelsError(f"the label file has no column {column!r}; it has: {', '.join(self.columns)}")
        missing = sorted({client for client in clients if not self.rows.get(client, {}).get(column)})
        if missing:
            some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            raise LabelsError(f"no {column!r} in the label file for {len(missing)} client(s) of the store: {some}")
        return [self.rows[client][column] for client in clients]
