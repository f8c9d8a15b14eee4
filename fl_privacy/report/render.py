"""From a run folder to a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_privacy.audit.files import write_atomically
from fl_privacy.errors import UserError
from fl_privacy.report import words
from fl_privacy.report.run import Run
from fl_privacy.report.sections import SECTIONS


def write_report(folder: Path) -> Path:
    """Write a run folder's report.html from its result.json and scores.csv, whole or not at all.

    Parameters
    ----------
    folder : Path
        What a run, or `Audit.save`, has written.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    UserError
        Where the folder has no result, or one that cannot be read.
    """
    folder = Path(folder)
    path = folder / "report.html"
    text = render(_result(folder / "result.json"), _scores(folder / "scores.csv"))
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def render(result: Mapping[str, Any], scores: Iterable[Mapping[str, str]]) -> str:
    """Make the page; the same input gives the same bytes.

    Parameters
    ----------
    result : mapping
        Content of a result.json.
    scores : iterable of mapping
        Rows of a scores.csv; none for a report without the figures that need them.

    Returns
    -------
    str
        One HTML file that refers to nothing outside itself.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fl_privacy.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": words.number, "interval": words.interval, "percent": words.percent}
    run = Run.of(result, scores)
    shown = []
    for section in SECTIONS:
        content = section.content(run)
        if content is not None:
            body = environment.get_template(section.template).render(**content)
            shown.append({"id": section.id, "title": section.title, "body": body})
    return environment.get_template("page.html.j2").render(
        title=words.title(run),
        sections=shown,
        version=run.part("versions").get("fl-privacy"),
    )


def _result(path: Path) -> Mapping[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no result to report on: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(result, Mapping):
        raise UserError(f"{path} is not a result: it holds a {type(result).__name__}")
    return result


def _scores(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
