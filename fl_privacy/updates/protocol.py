"""Words that our clients and strategies exchange beside Flower's own: plain strings, no Flower types."""

from __future__ import annotations

RECORD = "fl_privacy"
"""Key of the ConfigRecord that our clients add to a reply."""

KIND = "kind"
"""In that record: ``"gradient"`` or ``"weights"``, what the reply's arrays are."""

NORM = "norm"
"""In that record: Euclidean norm of a gradient reply as the client sent it, so that a rewrite on the way shows."""

PARTITION = "partition-id"
"""In that record, and in a node's configuration: the client's number."""

IDENTITY_QUERY = "query.fl_privacy_identity"
"""Message type of the question "which partition are you?"."""
