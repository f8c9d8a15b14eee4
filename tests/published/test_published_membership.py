"""What studies of membership inference report."""

from __future__ import annotations

import pytest

from fl_privacy.errors import UserError
from fl_privacy.published.compare import comparison
from fl_privacy.published.membership import membership_values


def one(**wanted):
    found = [row for row in membership_values("tseng2022") if all(getattr(row, k) == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"table": "T1", "model": "hubert-base", "auxiliary": "vctk", "unit": "utterance"}, 0.9380),
        ({"table": "T1", "model": "cpc", "auxiliary": "librispeech", "unit": "utterance"}, 0.8271),
        ({"table": "T2", "model": "tera", "pretraining": "LS-960", "unit": "speaker"}, 0.6019),
        ({"table": "T3", "model": "tera-reverse", "unit": "speaker"}, 0.9997),
        ({"table": "T4", "model": "tera", "unit": "utterance"}, 0.6155),
    ],
)
def test_numbers_are_the_studys(wanted, value):
    assert one(**wanted).value == value


def test_every_case_has_both_units():
    rows = membership_values("tseng2022")
    assert len(rows) == 44 and all(0.5 < row.value <= 1 for row in rows)
    for unit in ("utterance", "speaker"):
        assert sum(row.unit == unit for row in rows) == 22


def test_the_text_says_what_needs_no_encoder_and_what_is_doubtful():
    text = comparison("tseng2022", tables=["T2"])
    assert "0.7340 [" in text and "one of them is wrong" in text and "duration 0.829" in text
    assert "T1" not in text
    with pytest.raises(UserError, match="no table 'T9'; there are: T1, T2, T3, T4"):
        comparison("tseng2022", tables=["T9"])
