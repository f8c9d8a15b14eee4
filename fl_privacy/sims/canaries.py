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
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy._randomness import kept_streams
from fl_privacy.audit import Privacy
from fl_privacy.audit.epsilon import EpsilonBound, epsilon_bounds, largest, with_lower_bound
from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.errors import UserError
from fl_privacy.training import read_client, read_federation
from fl_privacy.training._parallel import Told, run_jobs
from fl_privacy.training._steps import apply_hook
from fl_privacy.training.client import (
    BrokenUpdate,
    ClientSettings,
    LocalModel,
    Memory,
    Participation,
    local_update,
    make_network,
)
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook, Objective
from fl_privacy.training.matched import Request
from fl_privacy.training.private import DPSGD
from fl_privacy.updates import UpdateStore
from fl_privacy.updates.protocol import PARTICIPATIONS

Unit = Literal["client", "example"]

_UPDATE_NORM = 1e4
"""Of a crafted update or gradient: above any clipping norm in use, small enough for float32."""

_INPUT_NORM = 10.0
"""Of a crafted example's features, in units of what standardised features have on average."""

_MOST_DELTA = 0.1
"""Above it a promise allows nearly everything, and no canary tells anything."""

_OTHERS = 0.1
"""What a batch's other examples add along a canary's gradient, roughly, in clipping norms: were it left out of account,
little noise would let them be taken for the canary."""

_RIDGE = 0.01
"""Of the regression on the gradients of other examples, of norm 1 each: dropout leaves them known but roughly."""

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
    included = np.array([_Canary.draw(seed, number, list(rounds)).included for number in range(canaries)])
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


@dataclass(frozen=True)
class _Canary:
    """What is drawn for a canary beforehand: the client it goes to, the coin, and seeds for the rest."""

    number: int
    client: int
    included: bool
    own: int
    replica: int

    @classmethod
    def draw(cls, seed: int, number: int, clients: Sequence[int]) -> _Canary:
        rng = np.random.default_rng([seed, number])
        client = clients[int(rng.integers(len(clients)))]
        return cls(number, client, bool(rng.random() < 0.5), *map(int, rng.integers(2**62, size=2)))


def _score(job: _Job, told: Told) -> NDArray[np.float64]:
    """Return the scores of some canaries."""
    facts, store = read_federation(job.data), UpdateStore(job.store)
    defenses = functools.partial(make_defenses, json.loads(str(job.run_config["defenses"])))
    drawn = [_Canary.draw(job.seed, number, list(job.rounds)) for number in job.canaries]
    scores, answers = np.zeros(len(drawn)), 0
    keep_freed_memory()
    with kept_streams(), one_thread():
        dropout = float(job.run_config["dropout"])
        network = make_network(facts.inputs, len(facts.classes), dropout, defenses())
        kind = _Clients if job.unit == "client" else _Examples
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


class _Replicas:
    """Has a client answer once more, with a canary or without."""

    def __init__(self, model: LocalModel, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        self.model, self._settings, self._defenses = model, settings, defenses
        self._out = Flat(model.shapes)

    def score(self, canary: _Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        """Return what one answer says for the canary's being in."""
        raise NotImplementedError

    def settings(self, canary: _Canary, request: Request) -> ClientSettings:
        """Return what the replica is told: all but the seed as the victims were."""
        config = {(key, kind): values for key, kind, values in request.told.records}.get(("config", "config"), {})
        most = int(config.get(PARTICIPATIONS, self._settings.participations))
        return replace(self._settings, seed=canary.replica, participations=most)

    def answer(
        self,
        canary: _Canary,
        request: Request,
        features: Tensor,
        labels: Tensor,
        private: Tensor | None,
        memory: Memory,
    ) -> Tensor:
        """Return what the client answers, as a gradient (FedSGD) or a difference of weights (FedAvg)."""
        self._out.whole.zero_()
        try:
            answer = local_update(
                self.model,
                request.theta,
                features,
                labels,
                self.settings(canary, request),
                server_round=request.server_round,
                partition=canary.client,
                out=self._out,
                defenses=self._defenses(),
                private=private,
                memory=memory,
                step=request.step,
            )
        except BrokenUpdate:  # nothing is sent, and nothing is seen
            return self._out.whole.zero_()
        if answer.kind == "gradient":
            return self._out.whole
        difference = self._out.whole - request.theta.whole
        return difference if request.step is None else difference / -request.step


class _Clients(_Replicas):
    """Canaries that are whole clients."""

    def __init__(self, network: nn.Module, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        self._crafted = _Crafted(network, any(type(d).gradient is not Defense.gradient for d in defenses()))
        super().__init__(self._crafted, settings, defenses)

    def score(self, canary: _Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        features, labels = data["train_features"], data["train_labels"]
        self._crafted.aim(canary.own, 1.0 if canary.included else -1.0)
        answered = self.answer(canary, request, features, labels, data.get("train_private"), memory)
        return float(torch.dot(answered, self._crafted.direction.whole))


class _Crafted(LocalModel):
    """A client that sends what it was told to, whatever its examples are.

    Parameters
    ----------
    network : Module
    by_gradients : bool
        Whether it is its gradients that are crafted, and not its update.
    """

    def __init__(self, network: nn.Module, by_gradients: bool) -> None:
        super().__init__(network)
        self._trained = {name for name, p in network.named_parameters() if p.requires_grad}
        self._by_gradients, self._sign = by_gradients, 1.0
        self.direction = Flat(self.shapes)

    def aim(self, seed: int, sign: float) -> None:
        """Choose a direction: plus or minus the same number on every coordinate, of norm 1 in all."""
        rng = np.random.default_rng(seed)
        sizes = {name: self.direction.tensors[name].numel() for name in self._trained}
        size = 1.0 / math.sqrt(sum(sizes.values()))
        for name, tensor in self.direction.tensors.items():
            if name in self._trained:
                bits = np.unpackbits(np.frombuffer(rng.bytes(-(-sizes[name] // 8)), np.uint8))[: sizes[name]]
                tensor.copy_(torch.from_numpy(bits).view(tensor.shape)).mul_(2.0 * size).sub_(size)
        self._sign = sign

    def gradient(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        batch_size: int,
        hook: GradientHook | None,
        out: Flat,
        objective: Objective | None = None,
    ) -> int:
        """Write a gradient into the direction."""
        torch.mul(self.direction.whole, self._sign * _UPDATE_NORM, out=out.whole)
        apply_hook(hook, out)
        return min(batch_size, len(features))

    def train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        settings: ClientSettings,
        hook: GradientHook | None,
        objective: Objective | None = None,
    ) -> int:
        """Move into the direction, in one go or by as many steps as the client would take."""
        if not self._by_gradients:
            theta.whole.add_(self.direction.whole, alpha=self._sign * _UPDATE_NORM)
            return len(features) * settings.local_epochs
        parameters = {name: nn.Parameter(theta.tensors[name]) for name in self.shapes if name in self._trained}
        optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True, **ADAM)
        for _ in range(-(-len(features) // settings.batch_size) * settings.local_epochs):
            downhill = {name: self.direction.tensors[name] * -self._sign * _UPDATE_NORM for name in parameters}
            for name, gradient in (hook(downhill) if hook else downhill).items():
                parameters[name].grad = gradient
            optimiser.step()
        return len(features) * settings.local_epochs

    def private_gradient(self, *_: Any, **__: Any) -> int:
        """Refuse: what is private example by example says nothing of a client."""
        raise UserError(
            "canaries: a defense that protects examples (dp-sgd) bounds no single client's update; audit unit 'example'"
        )

    private_train = private_gradient


class _Examples(_Replicas):
    """Canaries that are examples."""

    def __init__(self, network: nn.Module, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        super().__init__(LocalModel(network), settings, defenses)
        self._gradient = Flat(self.model.shapes)
        self._others: tuple[Request, int, Tensor, Tensor] | None = None

    def score(self, canary: _Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        features, labels, private = data["train_features"], data["train_labels"], data.get("train_private")
        example = self._example(canary, request, features.shape[1], memory)
        own = len(features)
        if canary.included:
            features, labels = torch.cat([features, example[0]]), torch.cat([labels, example[1]])
            private = None if private is None else torch.cat([private, torch.tensor([-1])])
        dpsgd = self._dpsgd(canary, request, own)
        along = self._apart(self._along(request.theta, *example), request, canary.client, data)
        inner = float(torch.dot(self.answer(canary, request, features, labels, private, memory), along))
        if self._settings.algorithm == "fedavg":
            return -inner
        if dpsgd is None or dpsgd.noise_multiplier == 0.0:
            return inner
        rate = min(1.0, self._settings.batch_size / own)
        spread = math.hypot(dpsgd.noise_multiplier, _OTHERS)
        seen = float(torch.linalg.vector_norm(along))
        if seen == 0.0:
            return 0.0
        standard, shift = inner * rate * own / (dpsgd.clipping_norm * seen * spread), seen / spread
        return float(
            np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + shift * (standard - shift / 2))
        )

    def _example(self, canary: _Canary, request: Request, inputs: int, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the canary's features and label."""
        rng = np.random.default_rng(canary.own)
        direction = rng.normal(size=inputs)
        x = torch.from_numpy(
            (_INPUT_NORM * math.sqrt(inputs) / np.linalg.norm(direction) * direction).astype(np.float32)
        )
        if _LABEL not in memory:
            self.model.load(request.theta)
            self.model.network.eval()
            with torch.no_grad():
                memory[_LABEL] = [int(self.model.network(x[None]).argmin())]
        return x[None], torch.tensor(memory[_LABEL])

    def _along(self, theta: Flat, x: Tensor, y: Tensor) -> Tensor:
        """Return the canary's gradient, without dropout and at norm 1."""
        network = self.model.network
        self.model.load(theta)
        network.eval()
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(functional.cross_entropy(network(x), y), list(parameters.values()))
        for name, gradient in zip(parameters, found, strict=True):
            self._gradient.tensors[name].copy_(gradient)
        norm = float(torch.linalg.vector_norm(self._gradient.whole))
        if not 0.0 < norm < math.inf:  # a model that broke down tells nothing
            return torch.zeros_like(self._gradient.whole)
        return self._gradient.whole / norm

    def _apart(self, along: Tensor, request: Request, client: int, data: Mapping[str, Tensor]) -> Tensor:
        """Return what of a canary's gradient the client's own examples do not explain: that is noise to the attacker.

        Who attacks differential privacy knows all examples but one.
        """
        held = self._others
        if held is None or held[0] is not request or held[1] != client:
            own = zip(data["train_features"], data["train_labels"], strict=True)
            rows = torch.stack([self._along(request.theta, x[None], y[None]) for x, y in own])
            gram = rows @ rows.T
            gram.diagonal().add_(_RIDGE)
            held = self._others = request, client, rows, torch.linalg.cholesky(gram)
        *_, rows, factor = held
        explained = torch.cholesky_solve((rows @ along)[:, None], factor)[:, 0]
        return along - explained @ rows

    def _dpsgd(self, canary: _Canary, request: Request, examples: int) -> DPSGD | None:
        """Return how gradients are made private, as the attacker knows it."""
        nobody, rng = torch.full((examples,), -1), np.random.default_rng(0)
        told = self.settings(canary, request)
        client = Participation(told, request.server_round, canary.client, examples, nobody, rng, {})
        return next((found for d in self._defenses() if (found := d.private_steps(client)) is not None), None)


_LABEL = "canary.label"
"""In a replica's memory, beside what defenses keep there."""
