"""What an attack on speaker recognisers hears: voices that are of use, and what is computed of their embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fl_privacy.attacks.membership.baselines import hardest_pairs, learned_similarity, norms, pair_quantiles
from fl_privacy.attacks.membership.evidence import Features, default_attacks
from fl_privacy.attacks.membership.features import FEATURES, Imposters, membership_features
from fl_privacy.attacks.membership.protocol import Voices, split_voices
from fl_privacy.attacks.membership.queries import centroid
from fl_privacy.audit.files import write_atomically
from fl_privacy.corpora import AudioError, Corpus
from fl_privacy.models.encoder import is_silent, vectors_of
from fl_privacy.sims.speaker_recognisers import Embeddings
from fl_privacy.sims.stages import RunFolder

logger = logging.getLogger(__name__)


def unusable(folder: RunFolder, corpus: Corpus, side: str = "") -> dict[str, str]:
    """Say which voices of a corpus cannot be used, and why: by id, a file that cannot be decoded, or silence.

    Every file is decoded once, in a stage of its own (``voices``).

    Parameters
    ----------
    folder : RunFolder
    corpus : Corpus
    side : str
        Stands before ids.
    """

    def work(path: Path) -> None:
        found = {}
        for utterance in corpus:
            try:
                if is_silent(corpus.wave(utterance)):
                    found[side + utterance.id] = "silence"
            except AudioError as error:
                found[side + utterance.id] = str(error).removeprefix(f"{utterance.path}: ")
        for name, why in found.items():
            logger.warning("%s is left out: %s", name, why)
        write_atomically(path / "left_out.json", json.dumps(found, indent=1) + "\n")

    held = folder.stage("voices", work) / "left_out.json"
    return {str(name): str(why) for name, why in json.loads(held.read_text(encoding="utf-8")).items()}


def usable_voices(
    corpus: Corpus, seed: int, side: str = "", left_out: Mapping[str, str] | None = None
) -> tuple[dict[str, Voices], tuple[tuple[str, str], ...]]:
    """Return the voices of every speaker who has enough to train a recogniser and be heard, and who has not, and why.

    Parameters
    ----------
    corpus : Corpus
    seed : int
    side : str
        Stands before names and ids.
    left_out : mapping of str to str, optional
        Ids of voices that cannot be used; see `unusable`.
    """
    by_speaker: dict[str, list[str]] = {}
    for utterance in corpus:
        mine = by_speaker.setdefault(side + utterance.speaker, [])
        if side + utterance.id not in (left_out or {}):
            mine.append(side + utterance.id)
    sessions = {side + u.id: f"{u.speaker}/{u.labels['session']}" for u in corpus if "session" in u.labels}
    voices = split_voices(by_speaker, seed, sessions)
    # Two voices of either kind: how close voices lie takes two.
    left = {name: v for name, v in voices.items() if min(len(v.trained), len(v.unseen)) < 2}
    excluded = tuple((name, f"{len(v.all)} voices; two of each half are needed") for name, v in left.items())
    return {name: v for name, v in voices.items() if name not in left}, excluded


def as_seen(table: Embeddings, access: str) -> Embeddings:
    """What the attacker works with: embeddings, or vectors of the same similarities."""
    if access == "white-box":
        return table
    ids, ends = list(table), np.cumsum([len(rows) for rows in table.values()])[:-1]
    rows = np.concatenate(list(table.values()))
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return dict(zip(ids, np.split(vectors_of(unit @ unit.T), ends), strict=True))


def looked_at(
    heard: Mapping[str, Sequence[str]],
    imposters: Mapping[str, Sequence[str]],
    tables: Sequence[Embeddings],
    inputs: Embeddings,
    attacks: Sequence[str],
    voices: int,
    seed: int,
    *,
    grouped: bool = False,
) -> Features:
    """Return what attacks look at, before each recogniser, of the speakers whose voices it heard.

    Parameters
    ----------
    heard : mapping of str to sequence of str
        Ids of each speaker's voices.
    imposters : mapping of str to sequence of str
        Ids of each imposter's voices.
    tables : sequence of Embeddings
        Of each recogniser.
    inputs : Embeddings
        Mean log-mel energies of the voices.
    attacks : sequence of str
        Names of the attacks, which say what is needed.
    voices : int
        How many voices are heard of a speaker.
    seed : int
    grouped : bool
        Whether each imposter is enrolled as one; see `Budget`.
    """
    known = default_attacks(voices)
    columns_of = [known[name].columns for name in attacks]
    baselines = any(columns is not None and max(columns) >= len(FEATURES) for columns in columns_of)
    pairs = voices * (voices - 1) // 2
    found = []
    for table in tables:
        people = [name for name, ids in heard.items() if all(id in table for id in ids)]
        looks = [np.concatenate([inputs[voice] for voice in heard[name]]) for name in people]
        others = [np.concatenate([table[voice] for voice in ids]) for ids in imposters.values()]
        if grouped:
            others = [centroid(rows).astype(np.float32) for rows in others]
        mine = [np.concatenate([table[voice] for voice in heard[name]]) for name in people]
        columns = [membership_features(mine, Imposters.of(others))]
        if baselines:
            columns += [
                np.stack([pair_quantiles(rows, pairs) for rows in mine]),
                np.stack([hardest_pairs(rows, look) for rows, look in zip(mine, looks, strict=True)]),
                learned_similarity(others, mine, seed=seed)[:, None],
                np.stack([norms(rows) for rows in mine]),
            ]
        found.append(dict(zip(people, np.concatenate(columns, axis=1), strict=True)))
    return found
