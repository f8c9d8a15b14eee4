"""A page: sections, each made of what the page is of, in one HTML file that refers to nothing outside itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.audit.files import write_atomically
from fl_privacy.errors import UserError
from fl_privacy.report import words


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


def page(title: str, sections: Sequence[Section], of: Any, *, made_from: str, version: Any) -> str:
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
    shown = []
    for section in sections:
        content = section.content(of)
        if content is not None:
            body = environment.get_template(section.template).render(**content)
            shown.append({"id": section.id, "title": section.title, "body": body})
    return environment.get_template("page.html.j2").render(
        title=title, sections=shown, made_from=made_from, version=version
    )


def write_page(folder: Path, text: str) -> Path:
    """Write a folder's report.html, whole or not at all, and return its path.

    Raises
    ------
    UserError
        Where it cannot be written.
    """
    path = folder / "report.html"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
