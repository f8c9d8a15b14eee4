"""A grid's clients as records, and records as bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.sims.local import LocalGrid

integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
scalars = st.one_of(st.booleans(), integers, st.integers(2**63, 2**64 - 1), floats, st.text(), st.binary())
lists = st.one_of(*(st.lists(one, min_size=1) for one in (st.booleans(), integers, floats, st.text(), st.binary())))
metrics = st.one_of(integers, floats, st.lists(integers, min_size=1), st.lists(floats, min_size=1))
arrays = hnp.arrays(
    st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int64", "bool", "complex64"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
records = st.one_of(
    st.dictionaries(st.text(), st.one_of(scalars, lists)).map(ConfigRecord),
    st.dictionaries(st.text(), metrics).map(MetricRecord),
    st.dictionaries(st.text(), arrays.map(Array)).map(ArrayRecord),
)


def plain(content: RecordDict) -> list:
    """Everything in order, with types: True is not 1, nor 1 the same as 1.0."""
    return [
        (key, type(record), [(name, repr(value), type(value)) for name, value in record.items()])
        for key, record in content.items()
    ]


@given(st.dictionaries(st.text(), records).map(RecordDict))
def test_records_come_back_from_bytes_as_they_were(content):
    dumped = _flower.dump_records(content)
    back = _flower.load_records(dumped)
    assert plain(back) == plain(content)
    assert _flower.dump_records(back) == dumped
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                ours, theirs = back[key][name].numpy(), array.numpy()
                assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def test_numbers_that_are_not_finite_come_back():
    content = RecordDict({"m": MetricRecord({"x": [float("nan"), float("inf"), -0.0]})})
    assert repr(_flower.load_records(_flower.dump_records(content))["m"]["x"]) == "[nan, inf, -0.0]"


def test_what_does_not_fit_64_bits_and_what_are_no_records_are_refused():
    with pytest.raises(ValueError):
        _flower.dump_records(RecordDict({"m": MetricRecord({"x": 2**64})}))
    with pytest.raises(ValueError, match="no Flower RecordDict"):
        _flower.load_records(b"not a record")


def drawing() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        past = context.state["a/b"]["draws"] if "a/b" in context.state else []
        context.state["a/b"] = MetricRecord({"draws": [*past, random.random()]})
        context.state["w"] = ArrayRecord({"w": Array(np.random.normal(size=3))})  # noqa: NPY002
        context.state[""] = ConfigRecord({"last": message.metadata.message_id})
        return Message(RecordDict({"m": MetricRecord({"draws": context.state["a/b"]["draws"]})}), reply_to=message)

    return app


def serve(grid: LocalGrid, *partitions: int) -> list:
    answers = grid.send_and_receive([Message(RecordDict(), 1000 + p, "train") for p in partitions])
    return [answer.content["m"]["draws"] for answer in answers]


@pytest.fixture(autouse=True)
def _run():
    with _flower.run_identity(1):
        yield


def test_a_restored_grid_goes_on_as_if_nothing_had_happened():
    grid = LocalGrid(drawing(), 12, {}, seed=4)
    serve(grid, 0, 2, 11, 0)
    saved = _flower.dump_records(grid.snapshot())
    expected = serve(grid, 0, 1, 2, 11)
    assert [len(draws) for draws in expected] == [3, 1, 2, 2]

    again = LocalGrid(drawing(), 12, {}, seed=4)
    serve(again, 5, 6)  # what was there before is gone
    again.restore(_flower.load_records(saved))
    assert _flower.dump_records(again.snapshot()) == saved
    assert serve(again, 0, 1, 2, 11) == expected
    assert _flower.dump_records(again.snapshot()) == _flower.dump_records(grid.snapshot())


def test_a_snapshot_stays_as_it_was_taken_and_as_it_was_restored():
    grid = LocalGrid(drawing(), 2, {})
    serve(grid, 0)
    taken = grid.snapshot()
    before = _flower.dump_records(taken)
    other = LocalGrid(drawing(), 2, {})
    other.restore(taken)
    serve(grid, 0), serve(other, 0, 1)
    assert _flower.dump_records(taken) == before


def test_a_snapshot_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="3 clients does not fit a federation of 2"):
        LocalGrid(drawing(), 2, {}).restore(LocalGrid(drawing(), 3, {}).snapshot())
    for wrong in (RecordDict(), RecordDict({"engine": ArrayRecord()})):
        with pytest.raises(UserError, match="no snapshot"):
            LocalGrid(drawing(), 2, {}).restore(wrong)
