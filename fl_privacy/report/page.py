"""A page: sections, each made of what the page is of, in one HTML file that refers to nothing outside itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.audit.files import write_atomically
from fl_privacy.errors import UserError
from fl_privacy.report import words
from fl_privacy.report.svg import Figure


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes
    ----------
    id : str
        Its anchor.
    title : str
    template : str
        A file in ``templates/``.
    content : callable
        From what the page is of to what the template needs; None leaves the section out.
    """

    id: str
    title: str
    template: str
    content: Callable[[Any], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Page:
    """A page and the figures on it.

    Attributes
    ----------
    text : str
        One HTML file that refers to nothing outside itself.
    figures : tuple of Figure
        In their order.
    """

    text: str
    figures: tuple[Figure, ...]


def page(title: str, sections: Sequence[Section], of: Any, *, made_from: str, version: Any) -> Page:
    """Make a page.

    Parameters
    ----------
    title : str
    sections : sequence of Section
    of : object
        What every section's content is made of.
    made_from : str
        The files behind it, for the last line.
    version : str or None
        Of the fl-privacy that made these.
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
    shown, figures = [], list[Figure]()
    for section in sections:
        content = section.content(of)
        if content is not None:
            body = environment.get_template(section.template).render(**content)
            shown.append({"id": section.id, "title": section.title, "body": body})
            figures += _figures(content)
    text = environment.get_template("page.html.j2").render(
        title=title, sections=shown, made_from=made_from, version=version
    )
    return Page(text, tuple(figures))


def _figures(content: Any) -> Iterator[Figure]:
    if isinstance(content, Figure):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _figures(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _figures(value)


def write_figures(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """Write the table behind each figure as a CSV file, and return their paths.

    Raises
    ------
    UserError
        Where one cannot be written.
    """
    written = []
    for figure in (figure for figure in figures if figure.columns):
        path = folder / f"{figure.name}.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, figure.csv())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        written.append(path)
    return written


def write_page(path: Path, text: str) -> Path:
    """Write a page, whole or not at all, and return its path.

    Raises
    ------
    UserError
        Where it cannot be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
