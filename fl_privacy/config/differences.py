"""In what the settings of simulations differ, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl_privacy.config.loading import entry_name

_WIDTH = 60
"""Letters that a value is told in."""


def apart(settings: Sequence[Any], key: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield the settings in which simulations are not all alike.

    Tables are compared by key, and lists of tables by the names of their entries.

    Parameters
    ----------
    settings : sequence of mapping
        Resolved: plain JSON values.
    key : str
        Where they stand in a file.

    Yields
    ------
    key : str
        As ``--set`` takes it: ``"attack.raw-linear.shadows"``.
    values : list
        One for each simulation, None where it is not set. Of lists whose entries have other names (or another order):
        the names.
    """
    if any(isinstance(value, Mapping) for value in settings) and all(
        isinstance(value, Mapping) or value is None for value in settings
    ):
        tables = [value or {} for value in settings]
        for part in dict.fromkeys(part for table in tables for part in table):
            yield from apart([table.get(part) for table in tables], f"{key}.{part}" if key else part)
        return
    lists = [_by_name(value) for value in settings]
    named = [entries for entries in lists if entries is not None]
    if len(named) == len(settings):
        if any(list(entries) != list(named[0]) for entries in named):
            yield key, [list(entries) for entries in named]
        for name in (name for name in named[0] if all(name in entries for entries in named)):
            yield from apart([entries[name] for entries in named], f"{key}.{name}")
    elif len({_as_json(value) for value in settings}) > 1:
        yield key, list(settings)


def _by_name(value: Any) -> dict[str, Any] | None:
    """Return the entries of a list of tables by their names, None where it is no such list or two share a name."""
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        return None
    named = {str(entry_name(entry)): entry for entry in value}
    return named if len(named) == len(value) else None


@dataclass(frozen=True)
class Difference:
    """One setting that two simulations do not share.

    Attributes
    ----------
    key : str
        As ``--set`` takes it.
    there, here : str
        Its values as JSON, long ones cut to where they differ; of lists with common elements, the others.
    """

    key: str
    there: str
    here: str

    def __str__(self) -> str:
        """Say both values in a line."""
        return f"{self.key}: there {self.there}, here {self.here}"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    """Compare the settings of two simulations, in the order of `here`; see `apart`."""
    return [Difference(key, *_told(two, one)) for key, (one, two) in apart([here, there])]


def in_lines(found: Sequence[Difference], most: int = 10) -> str:
    """Say differences in indented lines: at most so many, and how many more there are."""
    lines = [str(difference) for difference in found[:most]]
    if len(found) > most:
        lines.append(f"and {len(found) - most} more")
    return "\n".join(f"  {line}" for line in lines)


def _told(there: Any, here: Any) -> tuple[str, str]:
    if isinstance(there, list) and isinstance(here, list):
        shared = [element for element in there if element in here]
        if shared and (len(shared) < len(there) or any(element not in there for element in here)):
            return _cut_both(*(_besides(elements, shared) for elements in (there, here)))
    return _cut_both(_as_json(there), _as_json(here))


def _besides(elements: list[Any], shared: list[Any]) -> str:
    alone = [_as_json(element) for element in elements if element not in shared]
    return f"also {', '.join(alone)}" if alone else "no more"


def _as_json(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _cut_both(there: str, here: str) -> tuple[str, str]:
    """Cut two texts to what a line has room for, about the first place where they differ."""
    first = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), min(len(there), len(here)))
    begin = max(first - _WIDTH // 3, 0) if max(len(there), len(here)) > _WIDTH else 0
    return _cut(there, begin), _cut(here, begin)


def _cut(text: str, begin: int) -> str:
    more = "\N{HORIZONTAL ELLIPSIS}"
    head, rest = (more, text[begin + 1 :]) if begin else ("", text)
    return head + (rest if len(head + rest) <= _WIDTH else rest[: _WIDTH - 1 - len(head)] + more)
