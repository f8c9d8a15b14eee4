"""matplotlib's SVG made fit to stand inside an HTML page, with the numbers behind it."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

INK, FAINT, FIRST, SECOND, THIRD = "#101010", "#cccccc", "#0072b2", "#d55e00", "#009e73"
"""Colours to draw with; on the page each is a variable of the style sheet, so that dark mode has its own."""

_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the table that it is drawn from.

    Attributes
    ----------
    name : str
        Different for each figure of a page; prefix of its ids, and the name of its file.
    svg : str
        One element, as `inline` makes it.
    columns : tuple of str
        Of the table; none where another figure has it.
    rows : tuple of tuple
        Its values: text, numbers, or None.
    """

    name: str
    svg: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()

    def csv(self) -> str:
        """Return the table as CSV text."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()

    def __html__(self) -> str:
        """Return the element, and a link that saves the table: data in the page itself, which needs no script."""
        if not self.columns:
            return self.svg
        table = f"data:text/csv;charset=utf-8,{quote(self.csv())}"
        link = f'<a class="data" download="{escape(self.name)}.csv" href="{table}">data as CSV</a>'
        return f"{self.svg}\n{link}"


_FONT = re.compile(r"font: [^;]*?([\d.]+)px[^;]*")


@contextmanager
def drawing(width: float, height: float, name: str) -> Iterator[tuple[Any, list[str]]]:
    """Draw a figure; what the block leaves in it is, at its end, appended to the list as SVG.

    Parameters
    ----------
    width, height : float
        In inches; 72 units of the SVG's view box each.
    name : str
        Prefix of all ids, different for each figure of a page.

    Yields
    ------
    figure : matplotlib.figure.Figure
    drawn : list of str
    """
    import matplotlib
    from matplotlib.figure import Figure

    drawn: list[str] = []
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A user's own matplotlibrc must not change the report.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        # The page's fonts set the text, not matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height))
        yield figure, drawn
        text = io.StringIO()
        figure.savefig(text, format="svg")
        drawn.append(text.getvalue())


def inline(svg: str, name: str, label: str, titles: Mapping[str, Sequence[str]] | None = None) -> str:
    """Make an SVG document an element of an HTML page.

    Parameters
    ----------
    svg : str
        As matplotlib writes it.
    name : str
        Prefix of the ids that stay: those that are referred to, and those given as ``gid`` with ``data-`` in front.
    label : str
        What the figure shows, for those who do not see it.
    titles : mapping, optional
        For a ``gid``, what to show when hovering over each of its markers, in the order of drawing.

    Returns
    -------
    str
        One ``<svg>`` element that scales with its box and has no namespace declarations, style sheet or size.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        marks = (titles or {}).get(element.get("id", ""), ())
        if marks:
            _add_titles(element, marks)
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            plain = key.rpartition("}")[2]
            if plain == "id":
                if value in referred or value.startswith("data-"):
                    element.set("id", f"{name}-{value}")
            elif plain == "href":
                element.set("href", f"#{name}-{value[1:]}")
            elif plain == "style":
                element.set("style", _style(value))
            else:
                element.set(plain, value.replace("url(#", f"url(#{name}-"))
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode").strip()


def _add_titles(group: ElementTree.Element, titles: Sequence[str]) -> None:
    marks = [e for e in group.iter() if e.tag.rpartition("}")[2] == "use"]
    for mark, title in zip(marks, titles, strict=True):
        ElementTree.SubElement(mark, "title").text = title


def _style(value: str) -> str:
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, variable)
    return _FONT.sub(r"font-size: \1px", value)
