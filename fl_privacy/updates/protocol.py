"""Words that our clients and strategies exchange beside Flower's own: plain strings, no Flower types."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RECORD = "fl_privacy"
"""Key of the ConfigRecord that our clients add to a reply."""

KIND = "kind"
"""In that record: ``"gradient"`` or ``"weights"``, what the reply's arrays are."""

DIGEST = "digest"
"""In that record: `digest` of a gradient reply's arrays as the client sent them, so that a rewrite on the way shows."""

PARTITION = "partition-id"
"""In that record, and in a node's configuration: the client's number."""

RANDOMNESS = "fl_privacy.randomness"
"""In a message's configuration: [seed, server round], from which a client derives its own randomness."""

IDENTITY_QUERY = "query.fl_privacy_identity"
"""Message type of the question "which partition are you?"."""

LEDGER_QUERY = "query.fl_privacy_ledger"
"""Message type of the question "which noisy steps did you take?"."""

PARTICIPATIONS = "participations"
"""In a message's configuration: in how many rounds a client takes part at most, where its defenses need it."""


def digest(arrays: Iterable[bytes]) -> int:
    """Return a checksum of serialised arrays, in order, of 63 bits: against accidents, not against an adversary.

    Sums of 64-bit words: ten times as quick as a CRC, which at a megabyte a message would be felt.
    """
    value = 0
    for array in arrays:
        octets = np.frombuffer(array, np.uint8)
        whole = len(octets) // 8 * 8
        words, rest = octets[:whole].view(np.uint64), octets[whole:]
        value = (31 * value + len(octets) + int(np.add.reduce(words, dtype=np.uint64)) + int(rest.sum())) % 2**63
    return value
