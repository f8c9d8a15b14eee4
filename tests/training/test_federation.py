"""The server's side of the plain loop."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.training.federation import weighted_mean


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 40),
    m=st.sampled_from([1, 2, 7, 64, 8191, 20_000]),
    seed=st.integers(0, 2**32 - 1),
    largest=st.sampled_from([1, 30, 10**6]),
)
def test_the_mean_is_flowers_to_the_bit(k, m, seed, largest):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((k, m)) * 10.0 ** rng.integers(-8, 8, (k, m))).astype(np.float32)
    examples = [int(n) for n in rng.integers(1, largest + 1, k)]
    records = [
        RecordDict({"arrays": ArrayRecord({"a": Array(row)}), "metrics": MetricRecord({"num-examples": n})})
        for row, n in zip(rows, examples, strict=True)
    ]
    expected = aggregate_arrayrecords(records, "num-examples")["a"].numpy()
    found = np.full(m, np.nan, np.float32)
    weighted_mean(rows, [n / sum(examples) for n in examples], found)
    assert found.tobytes() == expected.tobytes()
