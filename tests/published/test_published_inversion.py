"""What the study of inversion reports, and runs of ours beside it."""

from __future__ import annotations

import json

import pytest

from fl_privacy.config import load_any
from fl_privacy.errors import UserError
from fl_privacy.published.compare import comparison


def test_the_table_is_printed_as_it_was_published():
    text = comparison("pizzi2023")
    assert "arXiv 2301.03206" in text and "ours" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("sliding") and " laplace " in line]
    assert line.split() == ["sliding", "laplace", "0.005", "0.9048", "418/462", "0.752", "0.0550"]
    assert sum(line.startswith(("standard", "sliding")) for line in text.splitlines()) == 20
    with pytest.raises(UserError, match="there is one table"):
        comparison("pizzi2023", tables=["T1"])


def claim(judge: str, value: float, **conditions):
    shared = {"classes": 40, "judge": judge, **conditions}
    return {
        "attack": "standard from laplace",
        "metric": "accuracy",
        "attribute": "identity",
        "value": value,
        "conditions": shared,
    }


def test_a_run_stands_beside_it_with_what_differs(tmp_path):
    held = load_any("speaker-inversion").resolved()
    result = {
        "simulation": held,
        "claims": [
            claim("attacked", 0.925),
            claim("attacked", 0.5, readout="trim"),
            claim("other architecture", 0.025),
            # What is read of a label has the same metric, and no judge.
            claim("attacked", 0.75) | {"attribute": "gender", "conditions": {"classes": 40}},
        ],
        "inversion": {"distances": {"standard from laplace": {"own_recognised": {"mean": 0.701}}}},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    lines = comparison("pizzi2023", [tmp_path]).splitlines()
    (line,) = [line for line in lines if line.startswith("standard") and " laplace " in line]
    assert line.split()[-3:] == ["0.9250", "0.0250", "0.701"]
    (note,) = [line for line in lines if line.startswith("ours:")]
    for told in ("run's is an4", "462 speakers, this run 40", "this run cross-entropy", "this run 150", "relative to"):
        assert told in note, told
    (tmp_path / "result.json").write_text(json.dumps({"claims": []}))
    with pytest.raises(UserError, match="of another kind"):
        comparison("pizzi2023", [tmp_path])
    with pytest.raises(UserError, match="no run folder"):
        comparison("pizzi2023", [tmp_path / "none"])
