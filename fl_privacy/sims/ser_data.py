"""The voices of a simulation: features of both sides, and who is a client with what."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.question import SPEAKER
from fl_privacy.config import FederatedCorpus, FederatedSerFile
from fl_privacy.corpora import Corpus
from fl_privacy.errors import UserError
from fl_privacy.features import FeatureTable, extract
from fl_privacy.sims.partition import Partition, corpus_names, halves, partition, task_corpus, varies
from fl_privacy.sims.progress import Progress
from fl_privacy.training import write_federation


class Voices:
    """Private and auxiliary speech as features, extracted when first asked for.

    Parameters
    ----------
    settings : FederatedSerFile
    progress : callable
        See `Progress`.
    """

    def __init__(self, settings: FederatedSerFile, progress: Progress) -> None:
        self._settings, self._progress = settings, progress

    @cached_property
    def private(self) -> FeatureTable:
        """The private corpus; where speakers are asked for, the half of it that clients have."""
        table = self._features(self._settings.private)
        return halves(table, self._settings.simulation.seed)[0] if self._enrolled else table

    @cached_property
    def auxiliary(self) -> list[FeatureTable]:
        """What the attacker owns; where speakers are asked for, the other half of the private corpus."""
        if self._enrolled:
            table = self._features(self._settings.private)
            return [halves(table, self._settings.simulation.seed)[1]]
        return [self._features(choice) for choice in self._settings.auxiliary]

    @property
    def _enrolled(self) -> bool:
        return self._settings.private.attribute == SPEAKER

    def check_strangers(self) -> None:
        """Refuse auxiliary recordings that are private ones, under whatever name they came."""
        private = {self.private.corpus.fingerprint(u): u.id for u in self.private.corpus}
        for table in self.auxiliary:
            shared = [u.id for u in table.corpus if table.corpus.fingerprint(u) in private]
            if shared:
                raise UserError(
                    f"{len(shared)} recording(s) of the auxiliary corpus {table.corpus.name!r} are private ones too, "
                    f"such as {shared[0]!r}: the attacker owns other {'recordings' if self._enrolled else 'speakers'}"
                )

    def partition(self, name: str, seed: int) -> Partition:
        """Make clients of the speakers of ``"victim"``, ``"shadow-<i>"`` or ``"matched"``."""
        settings, private = self._settings, name == "victim"
        names = corpus_names([table.corpus.name for table in (self.private, *self.auxiliary)])
        fold, hold_out = None, private
        if self._enrolled:  # the same people on both sides
            names, hold_out = [self.private.corpus.name] * 2, True
            fold = settings.simulation.seed % settings.federation.folds
            fold = fold if settings.federation.fold is None else settings.federation.fold
        elif name.startswith("shadow-"):
            hold_out, fold = settings.shadow.hold_out, int(name.removeprefix("shadow-")) % settings.federation.folds
        choices = [settings.private] if private else settings.auxiliary
        return partition(
            [self.private] if private else self.auxiliary,
            settings.federation,
            settings.task,
            names_of_corpora=names[:1] if private else names[1:],
            attribute=settings.private.attribute,
            how=settings.features.normalise,
            seed=seed,
            hold_out=hold_out,
            shards=[choice.shards or settings.federation.shards_per_speaker for choice in choices],
            fold=fold,
        )

    def write(self, made: Partition, folder: Path) -> None:
        """Write the clients' data into a new folder."""
        write_federation(folder, made.clients, self._settings.task.classes, made.test_features, made.test_labels)

    def facts(self, private: bool) -> list[dict[str, Any]]:
        """Say of one side's corpora how many speakers and utterances there are, and what was left out and why."""
        return [_facts(table.corpus) for table in ([self.private] if private else self.auxiliary)]

    def _features(self, choice: FederatedCorpus) -> FeatureTable:
        corpus = task_corpus(Corpus.load(choice.corpus, choice.root, **choice.options), self._settings.task)
        what = f"features of {choice.corpus}"
        features = self._settings.features
        table = extract(
            corpus, features.name, features.options, progress=lambda done, total: self._progress(what, done, total)
        )
        return table if choice.part is None else self._part(table, choice.part)

    def _part(self, table: FeatureTable, part: str) -> FeatureTable:
        """Keep one of several parts of the speakers, each with its share of every value of the attribute."""
        number, parts = map(int, part.split("/"))
        attribute = self._settings.private.attribute
        rng = np.random.default_rng([self._settings.simulation.seed, 13])
        speakers = table.corpus.speakers
        values = [""] * len(speakers)
        if attribute != SPEAKER and not varies(table.corpus, attribute):
            of = table.corpus.speaker_labels(attribute)
            values = [of[speaker] for speaker in speakers]
        dealt = rng.permutation(len(speakers))
        ordered = dealt[np.argsort(np.array(values)[dealt], kind="stable")]
        kept = {speakers[i] for i in ordered[number - 1 :: parts].tolist()}
        return table.where(np.array([speaker in kept for speaker in table.speakers]), f"not in part {part}")


def _facts(corpus: Corpus) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for excluded in corpus.excluded:
        reasons[excluded.reason] = reasons.get(excluded.reason, 0) + 1
    return {
        "name": corpus.name,
        "speakers": len(corpus.speakers),
        "utterances": len(corpus),
        "left_out": dict(sorted(reasons.items())),
    }
