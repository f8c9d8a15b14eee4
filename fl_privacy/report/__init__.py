"""Run and sweep folders as one HTML file, for people who did not make the run."""

from __future__ import annotations

from fl_privacy.report.make import make_report
from fl_privacy.report.render import render, write_report
from fl_privacy.report.sweep import write_sweep_report

__all__ = ["make_report", "render", "write_report", "write_sweep_report"]
