"""The published attack (Feng et al., arXiv 2112.13416, public code): one CNN a layer, trained on shadow updates."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.attribute._standardise import Standard, standards
from fl_privacy.attacks.base import Auxiliary, OneClassError, ReadsLayers, holding, layers_of
from fl_privacy.errors import UserError
from fl_privacy.updates import Update

if TYPE_CHECKING:
    import torch

    from fl_privacy.models.published_cnn import LayerCNN

BATCH = 20
_COUNT_FROM = 30
VALIDATION = 0.2
_FEWEST = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long a generation of the study's code trained its attack, and with how much dropout."""

    epochs: int
    patience: int
    dropout: float


GENERATIONS = {"B": Schedule(40, 10, 0.2), "C": Schedule(50, 6, 0.2)}
"""By the name that the published results of that time have here (generation A trained as B did)."""


@dataclass(frozen=True)
class Epoch:
    """What came of one pass over the updates that are learnt from.

    Attributes
    ----------
    training_loss, validation_loss : float
        Mean negative log-likelihood.
    validation_uar : float
        Mean recall over the classes.
    learning_rate : float
        That the pass was made with.
    """

    training_loss: float
    validation_loss: float
    validation_uar: float
    learning_rate: float


class PublishedCNN(ReadsLayers):
    """A CNN over the update of a layer's weights, as over an image, and its bias; for parity with the study.

    Each coordinate is standardised with the mean and the spread of the attacker's own updates. A fifth of these,
    drawn over *updates* (so speakers stand on both sides), is kept for validation; the rest is learnt by Adam (1e-4,
    betas .9 and .98, eps 1e-9, L2 1e-4) in batches of 20. The rate falls to a fifth after more than 3 epochs without a
    smaller validation loss, down to 1e-6. The epoch with the best validation UAR is kept, and training ends early when
    that has not been bettered for `patience` epochs; for both, only epochs after the 30th count.

    Several layers are fused late: the networks' probabilities are averaged, weighted by their layers' numbers of
    weights. The study's "fusion" is ``layers=["first", "second", "last"]``.

    It is slow (hours an epoch for the study's 15,000 updates of 256 x 988, on one core) and written to be comparable,
    not strong: see `InputReconstruction`.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    generation : {"B", "C"}
        Whose schedule: at most 40 epochs, patience 10; or at most 50, patience 6.
    epochs : int, optional
        Another number of epochs. With fewer than 40, the last quarter of them counts for the best one.
    dropout : float, optional
        Default .2; the study's generation C also tried .1 (and seems to report the better of the two on the test).
    seed : int
        Of initialisation, split, order and dropout. The study's is 8.
    device : str
        ``"auto"`` for a GPU where there is one; the CPU (on one thread) gives the same bits for the same seed.

    Attributes
    ----------
    layers_ : tuple of Layer
        The layers found.
    networks_ : tuple of Module
        A trained network for each.
    history_ : tuple of tuple of Epoch
        What came of each epoch, by layer.
    kept_epochs_ : tuple of int
        Which epoch, from 1, was kept for each layer.

    Notes
    -----
    The network stands in `fl_privacy.models.published_cnn`. A last batch of one update is joined to the one before.
    The study divides a FedAvg update by -(learning rate x steps); after standardisation that would change nothing but
    the size of the 1e-5 next to the spread, and, where clients make different numbers of steps, their relative size.
    """

    needs = frozenset({"updates"})
    costly = True  # a training takes hours

    def __init__(
        self,
        layers: str | Sequence[str] = ("first",),
        generation: Literal["B", "C"] = "B",
        epochs: int | None = None,
        dropout: float | None = None,
        seed: int = 8,
        device: str = "auto",
    ) -> None:
        super().__init__(layers)
        if generation not in GENERATIONS:
            raise UserError(f"PublishedCNN: generation must be one of {', '.join(GENERATIONS)}, not {generation!r}")
        if epochs is not None and epochs < 1:
            raise UserError(f"PublishedCNN: epochs must be at least 1, not {epochs}")
        if dropout is not None and not 0 <= dropout < 1:
            raise UserError(f"PublishedCNN: dropout must be at least 0 and below 1, not {dropout}")
        self.generation = generation
        self.epochs = epochs
        self.dropout = dropout
        self.seed = seed
        self.device = device

    @property
    def schedule(self) -> Schedule:
        """The schedule in use."""
        published = GENERATIONS[self.generation]
        epochs = published.epochs if self.epochs is None else self.epochs
        dropout = published.dropout if self.dropout is None else self.dropout
        return Schedule(epochs, published.patience, dropout)

    def fit(self, updates: Sequence[Update], labels: NDArray[Any], auxiliary: Auxiliary) -> Self:
        """Train a network for each layer on updates whose owners are known; they are read again in every epoch.

        Raises
        ------
        UserError
            Where the attribute is a number, a layer is not there, or too few updates can be read.
        """
        own, truth, found = self.learnt_from(updates, labels, auxiliary)
        self.layers_ = tuple(standard.layer for standard in found)
        self._standards, self._classes = found, len(auxiliary.classes)
        trained = [self._train(standard, own, truth) for standard in found]
        self.networks_ = tuple(network for network, _, _ in trained)
        self.history_ = tuple(history for _, history, _ in trained)
        self.kept_epochs_ = tuple(kept for _, _, kept in trained)
        return self

    def decision_function(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Score updates.

        Returns
        -------
        ndarray, (n,) or (n, classes)
            Log-odds of the second of two classes; of more, each class's log-probability less that of a guess. Where an
            update holds nothing of a layer, or no numbers, 0: no evidence.
        """
        held = np.flatnonzero(holding(updates, self.layers_))
        logs = np.zeros((len(updates), self._classes))
        with one_thread():
            for start in range(0, len(held), BATCH):
                rows = held[start : start + BATCH]
                logs[rows] = self._fused([updates[i] for i in rows.tolist()])
        return logs[:, 1] - logs[:, 0] if self._classes == 2 else logs

    def _fused(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Return the log of the weighted mean of the networks' probabilities, less that of a guess; 0 if unreadable."""
        total = sum(standard.weights for standard in self._standards)
        readable = np.ones((len(updates), 1), dtype=np.bool_)
        parts = []
        for standard, network in zip(self._standards, self.networks_, strict=True):
            arrays = standard.read(updates)
            for array in arrays:
                readable &= np.isfinite(array.reshape(len(array), -1)).all(axis=1, keepdims=True)
            parts.append(
                np.where(readable, _log_probabilities(network, arrays), 0.0) + math.log(standard.weights / total)
            )
        return np.where(readable, np.logaddexp.reduce(parts, axis=0) + math.log(self._classes), 0.0)

    # ------------------------------------------------------------------ training

    def learnt_from(
        self, updates: Sequence[Update], labels: NDArray[Any], auxiliary: Auxiliary
    ) -> tuple[list[Update], NDArray[np.int64], tuple[Standard, ...]]:
        """Return the updates that can be read, their labels, and how to standardise each layer."""
        if not auxiliary.classes:
            raise UserError("PublishedCNN tells classes apart; this attribute is a number")
        layers = layers_of(updates, self.layers)
        held = np.flatnonzero(holding(updates, layers))
        found, finite = standards([updates[i] for i in held.tolist()], layers)
        held = held[finite]
        truth = np.asarray(labels)[held].astype(np.int64)
        if len(held) < _FEWEST:
            raise UserError(f"PublishedCNN: {len(held)} update(s) can be read; it needs at least {_FEWEST} to learn")
        if len(set(truth.tolist())) < 2:
            raise OneClassError("PublishedCNN: the attacker's own updates that it can read are of one class only")
        return [updates[i] for i in held.tolist()], truth, found

    def _train(
        self, standard: Standard, updates: Sequence[Update], labels: NDArray[np.int64]
    ) -> tuple[LayerCNN, tuple[Epoch, ...], int]:
        """Train the network of one layer; return it as it was after the epoch that is kept."""
        import torch

        schedule, device = self.schedule, device_of(self.device)
        learning, checking = _split(len(updates), self.seed)
        history: list[Epoch] = []
        best, kept, state = -1.0, 0, {}
        with one_thread(), own_randomness("published-cnn", self.seed, standard.layer.name):
            network, optimiser = start_network(standard, self._classes, schedule.dropout, device)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.2, patience=3, min_lr=1e-6)
            for epoch in range(1, schedule.epochs + 1):
                rate = float(optimiser.param_groups[0]["lr"])
                total = 0.0
                for batch in batches(learning):
                    arrays = standard.read([updates[i] for i in batch])
                    total += train_step(network, optimiser, arrays, labels[batch]) * len(batch)
                loss, uar = validate(network, standard, [updates[i] for i in checking], labels[checking])
                plateau.step(loss)
                history.append(Epoch(total / len(learning), loss, uar, rate))
                _log.info(
                    "CNN on %s, epoch %d of %d: loss %.4f, validation loss %.4f, validation UAR %.4f",
                    *(standard.layer.name, epoch, schedule.epochs, history[-1].training_loss, loss, uar),
                )
                if epoch <= min(_COUNT_FROM, 3 * schedule.epochs // 4):
                    continue
                if uar > best:
                    best, kept, state = uar, epoch, copy.deepcopy(network.state_dict())
                elif epoch - kept >= schedule.patience:
                    break
            network.load_state_dict(state)
        return network.eval(), tuple(history), kept


def start_network(
    standard: Standard, classes: int, dropout: float, device: torch.device
) -> tuple[LayerCNN, torch.optim.Optimizer]:
    """Make a layer's network and its optimiser."""
    import torch

    from fl_privacy.models.published_cnn import LayerCNN

    units, inputs = standard.shape
    bias = standard.layer.bias is not None
    network = LayerCNN(units, inputs, bias=bias, classes=classes, dropout=dropout).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)
    return network, optimiser


def train_step(
    network: LayerCNN,
    optimiser: torch.optim.Optimizer,
    arrays: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
) -> float:
    """Take one step on a batch; return its mean loss."""
    import torch
    from torch.nn import functional

    network.train()
    optimiser.zero_grad()
    log = network(*_tensors(network, arrays))
    loss = functional.nll_loss(log, torch.from_numpy(labels).to(log.device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def validate(
    network: LayerCNN, standard: Standard, updates: Sequence[Update], labels: NDArray[np.int64]
) -> tuple[float, float]:
    """Return mean loss and UAR."""
    log = np.concatenate(
        [
            _log_probabilities(network, standard.read(updates[start : start + BATCH]))
            for start in range(0, len(updates), BATCH)
        ]
    )
    right = log.argmax(axis=1) == labels
    uar = float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))
    return float(-log[np.arange(len(labels)), labels].mean()), uar


def _log_probabilities(network: LayerCNN, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    import torch

    network.eval()
    with torch.no_grad():
        log = network(*_tensors(network, arrays))
    return np.asarray(log.cpu().numpy(), dtype=np.float64)


def _tensors(network: LayerCNN, arrays: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
    import torch

    device = next(network.parameters()).device
    return [torch.from_numpy(array).to(device) for array in arrays]


def _split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return who is learnt from and who is kept for validation, drawn over updates."""
    order = np.random.default_rng([seed, 80]).permutation(count)
    cut = count - math.ceil(VALIDATION * count)
    return order[:cut], order[cut:]


def batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows in random order, 20 at a time; a last one by itself joins the batch before."""
    import torch

    order = rows[torch.randperm(len(rows)).numpy()]
    start = 0
    while start < len(order):
        end = start + BATCH
        if len(order) - end == 1:  # batch normalisation has nothing to go by in one tiny map
            end += 1
        yield order[start:end]
        start = end


def device_of(name: str) -> torch.device:
    """Return the device of this name, once it has been used; a `UserError` where it cannot be."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)  # (a GPU's streams are there to be seeded from here on)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"PublishedCNN: device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums over several differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
