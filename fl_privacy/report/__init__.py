"""Run folders as one HTML file, for people who did not make the run."""

from __future__ import annotations

from fl_privacy.report.render import render, write_report

__all__ = ["render", "write_report"]
