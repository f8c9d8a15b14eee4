"""Reports made again, compared, and taken apart into tables: what ``fl-privacy report`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_privacy.errors import UserError
from fl_privacy.report.compare import page_of_runs
from fl_privacy.report.page import write_figures, write_page
from fl_privacy.report.render import page_of_run
from fl_privacy.report.sweep import page_of_sweep


def make_report(folders: Sequence[Path], out: Path | None = None, data: Path | None = None) -> list[Path]:
    """Write the report of a run or a sweep, or one that lays several beside one another.

    Parameters
    ----------
    folders : sequence of Path
        Of runs and sweeps.
    out : Path, optional
        The file to write; by default, for one folder, its own report.html.
    data : Path, optional
        A folder for the numbers behind each figure, one CSV file each.

    Returns
    -------
    list of Path
        The page, then the tables.

    Raises
    ------
    UserError
        Where several are given and no file, or one cannot be read or written.
    """
    if len(folders) > 1:
        if out is None:
            raise UserError("several runs go on one page: name the file to write with --out")
        made = page_of_runs(folders)
    elif len(folders) == 1:
        is_sweep = (folders[0] / "sweep.json").is_file()
        made = page_of_sweep(folders[0]) if is_sweep else page_of_run(folders[0])
    else:
        raise UserError("no run is named")
    written = [write_page(out or folders[0] / "report.html", made.text)]
    return written + ([] if data is None else write_figures(data, made.figures))
