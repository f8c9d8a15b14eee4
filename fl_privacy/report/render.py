"""From a run folder to a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_privacy.audit.files import read_result
from fl_privacy.report import inversion, words
from fl_privacy.report.files import read_scores
from fl_privacy.report.page import Page, page, write_page
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
    return write_page(Path(folder) / "report.html", page_of_run(Path(folder)).text)


def page_of_run(folder: Path) -> Page:
    """Make the page of a run folder."""
    return _page(read_result(folder / "result.json"), read_scores(folder / "scores.csv"))


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
    return _page(result, scores).text


def _page(result: Mapping[str, Any], scores: Iterable[Mapping[str, str]]) -> Page:
    run = Run.of(result, scores)
    inverted = inversion.is_inversion(run)
    return page(
        inversion.title(run) if inverted else words.title(run),
        inversion.SECTIONS if inverted else SECTIONS,
        run,
        made_from="result.json and scores.csv",
        version=run.part("versions").get("fl-privacy"),
    )
