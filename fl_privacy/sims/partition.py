"""Utterances to clients: held-out speakers, shards of speakers, equal shares, normalisation, numbering.

Splits as in Feng et al. (spec: 5 unshuffled folds over the ordered speakers; 80 % of a client's examples for training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Examples
from fl_privacy.attacks.question import SPEAKER
from fl_privacy.config import FederationSettings, Task
from fl_privacy.corpora import Corpus
from fl_privacy.errors import UserError
from fl_privacy.features import FeatureTable, normalise
from fl_privacy.training import ClientData
from fl_privacy.updates import Labels

_TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Partition:
    """A federation's data: clients by number, whose they are, and the held-out speakers' examples.

    `examples` are all utterances of the clients' speakers, with the attribute as text: on the attacker's side it owns
    them as well as what its clients make of them. `test_whose` is each held-out example's speaker.
    """

    clients: list[ClientData]
    labels: Labels
    test_features: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    test_whose: tuple[str, ...]
    examples: Examples

    @property
    def test_speakers(self) -> tuple[str, ...]:
        """Who is held out, each once."""
        return tuple(dict.fromkeys(self.test_whose))


def task_corpus(corpus: Corpus, task: Task) -> Corpus:
    """Keep the utterances that the task's clients can learn from.

    Raises
    ------
    UserError
        Where there is none, where an utterance has no such label, or where one is of another class and
        ``task.others`` is ``"refuse"``.
    """
    labels = corpus.label(task.label)
    others = sorted({label for label in labels if label not in task.classes})
    if others and task.others == "refuse":
        count = sum(label in others for label in labels)
        raise UserError(
            f"corpus {corpus.name!r}: {count} utterances have {task.label} {', '.join(others)}, not in task.classes "
            f"({', '.join(task.classes)}): add them there, or set task.others = 'leave-out'"
        )
    kept = corpus.select(
        lambda u: u.labels[task.label] in task.classes,
        lambda u: f"{task.label} {u.labels[task.label]} is not one of the task's classes",
    )
    if not len(kept):
        raise UserError(f"corpus {corpus.name!r}: no utterance with {task.label} among {', '.join(task.classes)}")
    return kept


def partition(
    tables: Sequence[FeatureTable],
    settings: FederationSettings,
    task: Task,
    *,
    names_of_corpora: Sequence[str],
    attribute: str,
    how: str,
    seed: int,
    hold_out: bool,
    shards: Sequence[int] | None = None,
    fold: int | None = None,
) -> Partition:
    """Make clients of speakers.

    Parameters
    ----------
    tables : sequence of FeatureTable
        One a corpus; each is normalised by itself.
    settings : FederationSettings
        Folds, shards, equal shares.
    task : Task
        What is learned.
    names_of_corpora : sequence of str
        What each table's speakers are told apart by: ``<name>/<speaker>``.
    attribute : str
        The column of the label file that the attacker wants: a label of the corpus, or ``"speaker"``. Where it varies
        within a speaker (a sentence), each speaker's clients get utterances of one value alone, drawn once and for
        all: the same in every federation and for every seed, so that seeds can be merged by speaker.
    how : str
        Normalisation.
    seed : int
        Of shards, splits and numbering.
    hold_out : bool
        Whether a fold of each corpus's speakers is kept for the test. They are never clients.
    shards : sequence of int, optional
        How many clients a speaker of each table is cut into; by default ``settings.shards_per_speaker``.
    fold : int, optional
        Which fold, instead of what the settings say.
    """
    if fold is not None:
        settings = settings.model_copy(update={"fold": fold})
    cuts = shards or [settings.shards_per_speaker] * len(tables)
    rng = np.random.default_rng([seed, 11])
    blocks: list[tuple[_Rows, int]] = []
    every: list[_Rows] = []
    test: list[_Rows] = []
    for table, corpus, cut in zip(tables, names_of_corpora, cuts, strict=True):
        names = [f"{corpus}/{s}" for s in table.corpus.speakers]
        held = _fold(names, settings, seed) if hold_out else ()
        speakers = [f"{corpus}/{u.speaker}" for u in table.corpus]
        training = np.array([s not in held for s in speakers])
        wanted = np.array(speakers if attribute == SPEAKER else _values(table.corpus, attribute))
        # A client normalises what it has: of a speaker, utterances of one value.
        whose = [f"{s} {v}" if kept else s for s, v, kept in zip(speakers, wanted, training, strict=True)]
        values = normalise(table.values, whose, how, training if how == "global" else None)
        classes = np.array([task.classes.index(label) for label in table.corpus.label(task.label)], dtype=np.int64)
        for name in names:
            rows = np.flatnonzero(np.array(speakers) == name)
            block = _Rows(name, wanted[rows], values[rows], classes[rows])
            every.append(block)
            if name in held:
                test.append(block)
            else:
                blocks.append((block, cut))
    examples = _examples([block for block, _ in blocks])
    if any(len(set(block.attribute.tolist())) > 1 for block, _ in blocks):
        value_of = _one_value_each(every)
        blocks = [
            (block.take(np.flatnonzero(block.attribute == value_of[block.speaker])), cut) for block, cut in blocks
        ]
    keys = {settings.shards_per_speaker: "federation.shards_per_speaker"}
    pieces = [piece for block, cut in blocks for piece in block.split(cut, rng, keys.get(cut, "shards"))]
    if settings.examples_per_client != "all":
        smallest = min(len(piece.classes) for piece in pieces)
        share = smallest if settings.examples_per_client == "equal" else settings.examples_per_client
        if share > smallest:
            raise UserError(f"federation.examples_per_client = {share}, but a client has only {smallest}")
        pieces = [piece.take(rng.permutation(len(piece.classes))[:share]) for piece in pieces]
    pieces = [pieces[i] for i in rng.permutation(len(pieces))]
    rows_of = {
        str(number): {
            "speaker": piece.speaker,
            attribute: str(piece.attribute[0]),
            "examples": str(len(piece.classes)),
            **{f"share_{name}": f"{float(np.mean(piece.classes == c)):.6f}" for c, name in enumerate(task.classes)},
        }
        for number, piece in enumerate(pieces)
    }
    width = tables[0].values.shape[1]
    values_there = sorted({str(value) for piece in pieces for value in piece.attribute})
    return Partition(
        clients=[piece.client(rng, values_there) for piece in pieces],
        labels=Labels(rows_of),
        test_features=np.concatenate([t.values for t in test]) if test else np.zeros((0, width), np.float32),
        test_labels=np.concatenate([t.classes for t in test]) if test else np.zeros(0, np.int64),
        test_whose=tuple(t.speaker for t in test for _ in t.classes),
        examples=examples,
    )


def _values(corpus: Corpus, attribute: str) -> list[str]:
    """Return the attribute of every utterance.

    Raises
    ------
    CorpusError
        Where a few speakers have two values of what is else a label of the person: that is a mistake in the corpus.
    """
    if not varies(corpus, attribute):
        corpus.speaker_labels(attribute)  # names the first speaker with two values
    return corpus.label(attribute)


def varies(corpus: Corpus, attribute: str) -> bool:
    """Whether an attribute is a label of utterances, not of people: most speakers have several values of it."""
    pairs = {(utterance.speaker, value) for utterance, value in zip(corpus, corpus.label(attribute), strict=True)}
    return 2 * sum(sum(who == s for who, _ in pairs) > 1 for s in corpus.speakers) >= len(corpus.speakers)


def halves(table: FeatureTable, seed: int) -> tuple[FeatureTable, FeatureTable]:
    """Cut each speaker's utterances into two random halves: recordings of the same people, at two places."""
    rng = np.random.default_rng([seed, 12])
    speakers = np.array(table.speakers)
    first = np.zeros(len(speakers), dtype=np.bool_)
    for speaker in table.corpus.speakers:
        rows = np.flatnonzero(speakers == speaker)
        if len(rows) < 2:
            raise UserError(f"speaker {speaker!r} of {table.corpus.name!r} has one utterance: it cannot be halved")
        first[rng.permutation(rows)[: len(rows) // 2]] = True
    return table.where(first, "in the other half"), table.where(~first, "in the other half")


def _one_value_each(blocks: Sequence[_Rows]) -> dict[str, str]:
    """Draw a value of the attribute for each speaker, in their order, so that every stretch of them has all alike."""
    rng = np.random.default_rng(13)
    counts = dict.fromkeys(sorted({value for block in blocks for value in block.attribute.tolist()}), 0)
    drawn = {}
    for block in blocks:
        there = sorted(set(block.attribute.tolist()))
        drawn[block.speaker] = chosen = min(there, key=lambda value: (counts[value], rng.random()))
        counts[chosen] += 1
    return drawn


def _examples(blocks: Sequence[_Rows]) -> Examples:
    return Examples(
        np.concatenate([block.values for block in blocks]),
        np.concatenate([block.classes for block in blocks]),
        tuple(block.speaker for block in blocks for _ in block.classes),
        np.concatenate([block.attribute for block in blocks]),
    )


def corpus_names(names: Sequence[str]) -> list[str]:
    """Tell corpora of one name apart: their speakers are different people."""
    return [name if names.count(name) == 1 else f"{name}-{names[:i].count(name)}" for i, name in enumerate(names)]


@dataclass(frozen=True)
class _Rows:
    speaker: str
    attribute: NDArray[np.str_]
    values: NDArray[np.float32]
    classes: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> _Rows:
        return _Rows(self.speaker, self.attribute[rows], self.values[rows], self.classes[rows])

    def split(self, shards: int, rng: np.random.Generator, key: str) -> list[_Rows]:
        if shards == 1:
            return [self]
        if shards > len(self.classes):
            raise UserError(f"{key} = {shards}, but speaker {self.speaker} has only {len(self.classes)} utterances")
        return [self.take(rows) for rows in np.array_split(rng.permutation(len(self.classes)), shards)]

    def client(self, rng: np.random.Generator, values: Sequence[str]) -> ClientData:
        order = rng.permutation(len(self.classes))
        cut = max(1, int(_TRAIN_SHARE * len(order)))
        train, validation = order[:cut], order[cut:]
        return ClientData(
            self.values[train],
            self.classes[train],
            self.values[validation],
            self.classes[validation],
            np.array([values.index(str(value)) for value in self.attribute[train]], dtype=np.int64),
        )


def _fold(names: Sequence[str], settings: FederationSettings, seed: int) -> frozenset[str]:
    """Return the held-out speakers: one of `folds` unshuffled parts of the ordered list."""
    if len(names) < settings.folds:
        raise UserError(f"{len(names)} speakers cannot be cut into federation.folds = {settings.folds} folds")
    number = seed % settings.folds if settings.fold is None else settings.fold
    return frozenset(np.array_split(np.array(names), settings.folds)[number].tolist())
