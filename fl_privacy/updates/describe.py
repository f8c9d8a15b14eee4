"""A store of captured updates in words."""

from __future__ import annotations

from collections import Counter

from fl_privacy.updates.store import UpdateStore

_NAMED_BY = {
    "query": "partition id, asked for",
    "mod": "partition id, told in replies",
    "node": "node id (their apps tell no partition id)",
}
_SHOWN = 5


def describe(store: UpdateStore, problems: list[str]) -> str:
    """Return what a store holds as text, one line a fact.

    Parameters
    ----------
    store : UpdateStore
    problems : list of str
        What `UpdateStore.check` found.
    """
    rounds, updates, failures = store.rounds, store.updates(), store.failures
    named = Counter(store.named_by.values())
    clients = {c for u in updates for c in (u.participants or (u.client,))} | {client for _, client, _ in failures}
    by = "; ".join(f"{count} by {_NAMED_BY[how]}" for how, count in sorted(named.items()))
    facts = [
        ("store", str(store.path)),
        ("threat model", store.threat_model.describe()),
        ("rounds", f"{len(rounds)} ({rounds[0]} to {rounds[-1]})" if rounds else "none"),
        ("clients", f"{len(clients)}" + (f", named {by}" if by else "")),
        ("updates", f"{len(updates)} of use" + (f", {len(failures)} not" if failures else "")),
        ("kind", " and ".join(sorted({u.kind for u in updates})) or "none"),
        ("observed", "the weighted sum of each round" if store.observe == "sum" else "each client's update"),
        ("arrays", ", ".join(f"{n} {' x '.join(map(str, s)) or 'scalar'}" for n, s in store.shapes.items())),
        ("stored as", store.dtype),
        ("sent models", "kept" if store.keeps_sent else "not kept: no matched shadows from this store"),
        ("bytes", f"{store.bytes:,}"),
    ]
    for reason, count in Counter(reason for _, _, reason in failures).most_common(_SHOWN):
        facts.append(("of no use", f"{count} x {reason}"))
    if problems:
        facts += [("damaged", problem) for problem in problems]
        facts.append(("", f"{len(problems)} of {len(rounds)} rounds are damaged; the others can be attacked"))
    else:
        facts += [("integrity", "every shard is whole (size and structure)"), ("SHA-256", store.digest())]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)
