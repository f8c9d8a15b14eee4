"""How a client says what it replies, so that a strategy does not take a gradient for weights."""

from __future__ import annotations

from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord

from fl_privacy.updates.protocol import DIGEST, KIND, RECORD, digest

__all__ = ["RECORD", "stamp"]


def stamp(arrays: ArrayRecord, kind: Literal["gradient", "weights"]) -> ConfigRecord:
    """Return the ConfigRecord that a client of `fl_privacy.FedSGD` adds to its reply's content, under `RECORD`.

    Parameters
    ----------
    arrays : ArrayRecord
        What the client replies.
    kind : {"gradient", "weights"}
        What that is. For a gradient the record holds a checksum: a DP wrapper or mod that rewrites it on the way as
        if it were weights is then noticed.
    """
    record = ConfigRecord({KIND: kind})
    if kind == "gradient":
        record[DIGEST] = digest(array.data for array in arrays.values())
    return record
