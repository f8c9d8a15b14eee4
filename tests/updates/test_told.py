from __future__ import annotations

import json
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply
from fl_privacy.updates.told import Told

SCALARS = {
    "ints": st.integers(-(2**63), 2**63 - 1),
    "floats": st.floats(allow_nan=True, allow_infinity=True),
    "numpy": st.floats(allow_nan=True).map(np.float64),
    "bools": st.booleans(),
    "texts": st.text(st.characters()),
    "bytes": st.binary(max_size=20),
}
VALUES = st.one_of(*SCALARS.values(), *(st.lists(one, max_size=4) for one in SCALARS.values()))
CONFIG = st.dictionaries(st.text(max_size=6), VALUES, max_size=5)
NUMBERS = st.one_of(SCALARS["ints"], SCALARS["floats"], st.lists(SCALARS["floats"], max_size=3))
RECORDS = st.one_of(
    st.tuples(st.text(max_size=6), st.just("config"), CONFIG),
    st.tuples(st.text(max_size=6), st.just("metrics"), st.dictionaries(st.text(max_size=6), NUMBERS, max_size=3)),
    st.tuples(st.text(max_size=6), st.just("arrays"), st.just({})),
)
TOLD = st.builds(
    Told, st.sampled_from(["train", "train.mine"]), st.lists(RECORDS, max_size=3, unique_by=lambda r: r[0]).map(tuple)
)


def bits(value):
    """A form in which values are equal when their types and bits are."""
    if isinstance(value, list):
        return [bits(v) for v in value]
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else struct.pack("d", value))
    return type(value).__name__, value


def form(told: Told):
    return told.message_type, [
        (key, kind, [(n, bits(v)) for n, v in values.items()]) for key, kind, values in told.records
    ]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@settings(max_examples=150, deadline=None)
@given(TOLD)
def test_survives_strict_json(told):
    text = json.dumps(told.to_json(), allow_nan=False, sort_keys=True)
    assert form(Told.from_json(json.loads(text, parse_constant=refuse))) == form(told)


@settings(max_examples=25, deadline=None)
@given(st.lists(TOLD, min_size=1, max_size=3))
def test_survives_a_store(told):
    model = {"w": np.ones(2, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        store = UpdateStore(Path(folder) / "s")
        store.begin(ThreatModel())
        replies = [Reply(str(i), 0, model, "gradient", told=i) for i in range(len(told))]
        store.append(1, [model], replies, told)
        store.close()
        lines = (Path(folder) / "s" / "index.jsonl").read_text(encoding="utf-8")
        assert lines.count("\n") == 1  # whatever line ends a text holds
        json.loads(lines, parse_constant=refuse)
        found = UpdateStore(Path(folder) / "s").messages(1)
        assert [form(message.told) for message in found] == [form(one) for one in told]
