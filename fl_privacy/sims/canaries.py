"""Audits of epsilon in a federation: canaries that were in or out, told apart by who knows them and sees every answer.

Each canary goes into a replica of its own of one client's part in the captured rounds, with fresh randomness: through
the same `local_update` and the same defenses, from the models that the clients were sent. A replica stands alone, so
one capture serves any number of canaries, and their scores are independent.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy._randomness import kept_streams
from fl_privacy.audit import Privacy
from fl_privacy.audit.epsilon import EpsilonBound, epsilon_bounds, largest, with_lower_bound
from fl_privacy.defenses import make_defenses
from fl_privacy.errors import UserError
from fl_privacy.sims._replicas import Canary, ClientReplicas, ExampleReplicas
from fl_privacy.training import read_client, read_federation
from fl_privacy.training._parallel import Told, run_jobs
from fl_privacy.training.local_model import make_network
from fl_privacy.training.matched import Request
from fl_privacy.training.participation import ClientSettings, Memory
from fl_privacy.updates import UpdateStore

Unit = Literal["client", "example"]

_MOST_DELTA = 0.1
"""Above it a promise allows nearly everything, and no canary tells anything."""

_IN_OR_OUT = {
    "client": "a client whose updates all point one way against the same client with the opposite ones",
    "example": "a client with one example more against the same client without it",
}


@dataclass(frozen=True)
class EpsilonAudit:
    """What canaries showed.

    Attributes
    ----------
    unit : {"client", "example"}
        What a canary is.
    scores : ndarray, shape (m,)
        Of the canaries; high: in.
    included : ndarray of bool, shape (m,)
        Which were in.
    participations : int
        Rounds that each took part in.
    delta, confidence : float
        Of `bounds`.
    """

    unit: Unit
    scores: NDArray[np.float64]
    included: NDArray[np.bool_]
    participations: int
    delta: float
    confidence: float

    @functools.cached_property
    def bounds(self) -> tuple[EpsilonBound, EpsilonBound]:
        """By Clopper and Pearson and by the one-run bound: both hold at once with the confidence."""
        return epsilon_bounds(self.scores, self.included, delta=self.delta, confidence=self.confidence)

    @property
    def best(self) -> EpsilonBound:
        """The higher one."""
        return largest(self.bounds)

    @classmethod
    def pooled(cls, audits: Sequence[Self]) -> Self:
        """Join audits of one mechanism, such as those of several seeds: their canaries are independent.

        Raises
        ------
        UserError
            Where units, deltas or confidences differ, or there are none.
        """
        if len({(audit.unit, audit.delta, audit.confidence) for audit in audits}) != 1:
            raise UserError("audits of epsilon are joined where unit, delta and confidence are the same")
        return replace(
            audits[0],
            scores=np.concatenate([audit.scores for audit in audits]),
            included=np.concatenate([audit.included for audit in audits]),
            participations=max(audit.participations for audit in audits),
        )

    def beside(self, promise: Privacy) -> Privacy:
        """Return a promise with the lower bound beside it, at the promise's delta.

        Raises
        ------
        UserError
            Where the promise is of another unit.
        """
        if promise.unit != self.unit:
            raise UserError(
                f"the promise of {promise.mechanism} is for the unit {promise.unit!r}, the audit for {self.unit!r}"
            )
        at = self if promise.delta is None else replace(self, delta=promise.delta)
        conditions = {"audited": _IN_OR_OUT[self.unit], "audited_participations": self.participations}
        return with_lower_bound(promise, at.bounds, confidence=self.confidence, conditions=conditions)

    def to_dict(self) -> dict[str, Any]:
        """Return what is worth telling as a JSON-ready mapping, without the scores."""
        return {
            "unit": self.unit,
            "audited": _IN_OR_OUT[self.unit],
            "canaries": len(self.scores),
            "participations": self.participations,
            "delta": self.delta,
            "confidence": self.confidence,
            "epsilon_lower_bound": self.best.value,
            "bounds": [bound.to_dict() for bound in self.bounds],
        }

    def save(self, path: str | Path) -> None:
        """Write it to an .npz file."""
        told = json.dumps([self.unit, self.participations, self.delta, self.confidence])
        with Path(path).open("wb") as file:
            np.savez(file, scores=self.scores, included=self.included, told=np.array(told))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            Where it cannot be read.
        """
        try:
            with np.load(path) as held:
                unit, participations, delta, confidence = json.loads(str(held["told"]))
                return cls(unit, held["scores"], held["included"], participations, delta, confidence)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} holds no audit of epsilon ({error}); run it again") from error


def from_server(promise: Privacy) -> bool:
    """Whether a promise is about what the server sees, so that the captured updates can be held against it."""
    return promise.protects_from.startswith("server") and (promise.delta is None or promise.delta < _MOST_DELTA)


def with_canaries(promises: Sequence[Privacy], runs: Sequence[Path]) -> list[Privacy]:
    """Put lower bounds beside promises.

    Parameters
    ----------
    promises : sequence of Privacy
    runs : sequence of Path
        Run folders, each with the stage ``canaries``, if any; their canaries are pooled.
    """
    found = []
    for promise in promises:
        paths = [path for run in runs if (path := run / "canaries" / f"{promise.unit}.npz").is_file()]
        told = from_server(promise) and bool(paths)
        found.append(EpsilonAudit.pooled([EpsilonAudit.load(p) for p in paths]).beside(promise) if told else promise)
    return found


def audit_epsilon(
    store: UpdateStore,
    data_folder: str | Path,
    run_config: Mapping[str, Any],
    unit: Unit,
    *,
    canaries: int = 1000,
    participations: int | None = None,
    seed: int = 0,
    delta: float = 1e-5,
    confidence: float = 0.95,
    processes: int = 1,
    told: Callable[[int, int], None] | None = None,
) -> EpsilonAudit:
    """Bound epsilon from below by canaries in replicas of the clients that took part most.

    *Clients.* A canary is a client whose every answer points into one direction of its own or, if out, away from it:
    any two clients are neighbours, as local DP has it. Where a defense changes gradients, it is the gradients that are
    crafted, and the local optimiser and that defense make of them what they make of any; elsewhere the whole update
    is. The attacker adds up the answers' inner products with the direction.

    *Examples.* A canary is an example with features of ten times the usual norm in a random direction, and the label
    that the first model holds least likely. It is added to a client's own examples or not. The attacker knows it,
    all of the client's other examples and every model that was sent, and adds up the answers' inner products with what
    of the canary's gradient at that model the others' gradients do not explain; of DP-SGD's gradients (FedSGD), the
    log-likelihood ratios with the noise and the sampling rate known.

    Parameters
    ----------
    store : UpdateStore
        The victims' captured updates, with the models that were sent.
    data_folder : str or Path
        The victims' data, see `fl_privacy.training.shards`.
    run_config : Mapping
        Of the victims' clients: ``algorithm``, ``batch-size``, ``learning-rate``, ``local-epochs``, ``dropout``,
        ``defenses``.
    unit : {"client", "example"}
    canaries : int
        How many; each is in by a fair coin.
    participations : int, optional
        Rounds for each at most, from the first: fewer show less. By default all that were captured.
    seed : int
        Of coins, canaries and the replicas' randomness.
    delta, confidence : float
        See `fl_privacy.audit.epsilon`.
    processes : int
        They change no result.
    told : callable, optional
        Told from time to time how many answers there have been, and of how many.

    Raises
    ------
    UserError
        Where the store does not hold single clients' updates or what they were sent, or the unit is not one that can
        be audited under these defenses.
    """
    if unit not in _IN_OR_OUT:
        raise UserError(f"canaries: the unit must be 'client' or 'example', not {unit!r}")
    if canaries < 1 or (participations is not None and participations < 1):
        raise UserError("canaries: there must be at least one, in at least one round")
    rounds = _busiest(store, read_federation(data_folder).clients, participations)
    shares = [tuple(map(int, share)) for share in np.array_split(np.arange(canaries), max(processes, 1)) if len(share)]
    jobs = [_Job(store.path, Path(data_folder), dict(run_config), unit, share, seed, rounds) for share in shares]
    each = len(next(iter(rounds.values())))
    done: dict[int, int] = {}

    def tell(job: int, answers: int) -> None:
        done[job] = answers
        if told is not None:
            told(sum(done.values()), canaries * each)

    scores = np.concatenate(run_jobs(_score, jobs, processes, tell))
    included = np.array([Canary.draw(seed, number, list(rounds)).included for number in range(canaries)])
    return EpsilonAudit(unit, scores, included, each, delta, confidence)


def _busiest(store: UpdateStore, clients: int, most: int | None) -> dict[int, tuple[int, ...]]:
    """Return the rounds of those clients whose updates were captured most often."""
    if store.observe == "sum":
        raise UserError(f"{store.path} holds sums over clients: canaries audit what a server sees of each client")
    found: dict[str, list[int]] = {}
    for update in store.updates():
        found.setdefault(update.client, []).append(update.round)
    if strangers := sorted(set(found) - {str(number) for number in range(clients)}):
        raise UserError(f"{store.path}: its clients are not those of the data ({', '.join(strangers[:3])})")
    if not found:
        raise UserError(f"{store.path} holds no update, so there is nothing to replay")
    largest_number = max(map(len, found.values()))
    rounds = {int(client): tuple(sorted(mine)) for client, mine in found.items() if len(mine) == largest_number}
    return {client: rounds[client][:most] for client in sorted(rounds)}


@dataclass(frozen=True)
class _Job:
    store: Path
    data: Path
    run_config: dict[str, Any]
    unit: Unit
    canaries: tuple[int, ...]
    seed: int
    rounds: Mapping[int, tuple[int, ...]]


def _score(job: _Job, told: Told) -> NDArray[np.float64]:
    """Return the scores of some canaries."""
    facts, store = read_federation(job.data), UpdateStore(job.store)
    defenses = functools.partial(make_defenses, json.loads(str(job.run_config["defenses"])))
    drawn = [Canary.draw(job.seed, number, list(job.rounds)) for number in job.canaries]
    scores, answers = np.zeros(len(drawn)), 0
    keep_freed_memory()
    with kept_streams(), one_thread():
        dropout = float(job.run_config["dropout"])
        network = make_network(facts.inputs, len(facts.classes), dropout, defenses())
        kind = ClientReplicas if job.unit == "client" else ExampleReplicas
        audit = kind(network, ClientSettings.read(job.run_config), defenses)
        # What an audit keeps of a client serves all of its canaries of a round.
        by_client = sorted(enumerate(drawn), key=lambda pair: pair[1].client)
        memories: list[Memory] = [{} for _ in drawn]
        for server_round in sorted({r for rounds in job.rounds.values() for r in rounds}):
            requests = [Request(message, audit.model) for message in store.messages(server_round)]
            for place, canary in by_client:
                if server_round in job.rounds[canary.client]:
                    request = requests[canary.number % len(requests)]
                    said = audit.score(canary, request, read_client(job.data, canary.client), memories[place])
                    scores[place] += said if math.isfinite(said) else 0.0  # a model that broke down tells nothing
                    answers += 1
            told(answers)
    return scores
