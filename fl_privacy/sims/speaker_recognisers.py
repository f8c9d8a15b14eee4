"""Recognisers of a swap design: trained over processes, each asked for the embedding of every voice, kept in files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.protocol import Recogniser, Voices, chunks
from fl_privacy.corpora import Corpus
from fl_privacy.training._parallel import Told, run_jobs
from fl_privacy.training.speaker import SpeakerTraining

Embeddings = Mapping[str, NDArray[np.float32]]
"""Of each voice, by its id: shape (chunks, d)."""


logger = logging.getLogger(__name__)

MEAN_LOG_MEL, RANDOM = "mean log-mel", "random initialisation"


@dataclass(frozen=True, slots=True)
class Source:
    """Where voices are.

    Attributes
    ----------
    corpus : str
        A name, or ``package.module:function``.
    root : str or None
    options : str
        Further arguments of the scan, as JSON.
    side : str
        Stands before the ids and speakers of this corpus, so that those of several are told apart.
    """

    corpus: str
    root: str | None = None
    options: str = "{}"
    side: str = ""

    def load(self) -> Corpus:
        """Scan it."""
        return Corpus.load(self.corpus, self.root, **json.loads(self.options))


@dataclass(frozen=True)
class RecogniserJob:
    """What a process needs to train one recogniser.

    Attributes
    ----------
    sources : tuple of Source
        Where the voices are.
    recogniser : Recogniser or None
        Whom it is trained on; None for nobody: the embeddings of `untrained`.
    voices : mapping of str to Voices
        Of every speaker.
    training : SpeakerTraining
    chunk_frames : int
        Voices are split into chunks of this length before they are embedded; 0: they are not.
    seed : int
    file : str
        Where the embeddings go; a job whose file is there is done.
    untrained : str
        Without a recogniser: ``MEAN_LOG_MEL``, the voices' mean log-mel energies, or ``RANDOM``, the network as it is
        initialised.
    """

    sources: tuple[Source, ...]
    recogniser: Recogniser | None
    voices: Mapping[str, Voices]
    training: SpeakerTraining
    chunk_frames: int
    seed: int
    file: str
    untrained: str = MEAN_LOG_MEL


def embed_by_recognisers(
    jobs: list[RecogniserJob], processes: int, told: Callable[[int, int], None] | None = None
) -> None:
    """Train the recognisers of some jobs and write their embeddings; files that are there stay.

    Parameters
    ----------
    jobs : list of RecogniserJob
    processes : int
    told : callable, optional
        Told the number of a job (among those that were not done) and how many steps of it are.
    """
    run_jobs(_train_and_embed, [job for job in jobs if not Path(job.file).exists()], processes, told)


def read_embeddings(file: Path) -> Embeddings:
    """Read the embeddings of every voice under one recogniser."""
    with np.load(file, allow_pickle=False) as held:
        ids, sizes = held["ids"].tolist(), held["sizes"]
        return dict(zip(ids, np.split(held["embeddings"], np.cumsum(sizes)[:-1]), strict=True))


def write_embeddings(path: Path, ids: Sequence[str], sizes: Sequence[int], embeddings: NDArray[np.float32]) -> None:
    """Write embeddings of voices, each of so many chunks, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as out:
        np.savez(out, ids=np.array(ids), sizes=np.array(sizes), embeddings=embeddings)
    os.replace(temporary, path)


@lru_cache(maxsize=1)
def _waves(sources: tuple[Source, ...], wanted: frozenset[str]) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    for source in sources:
        speech = source.load()
        found |= {
            source.side + utterance.id: speech.wave(utterance)
            for utterance in speech
            if source.side + utterance.id in wanted
        }
    return found


def _train_and_embed(job: RecogniserJob, told: Told) -> None:
    from fl_privacy._processes import one_thread
    from fl_privacy._randomness import own_randomness
    from fl_privacy.models.encoder import SpeakerEncoder
    from fl_privacy.models.speaker import make_encoder
    from fl_privacy.training.speaker import train_speaker_encoder

    waves = _waves(job.sources, frozenset(id for voices in job.voices.values() for id in voices.all))
    if job.recogniser is not None:
        heard = [(voice, speaker) for speaker in job.recogniser.members for voice in job.voices[speaker].trained]
        model = train_speaker_encoder(
            [waves[voice] for voice, _ in heard], [speaker for _, speaker in heard], job.training, job.seed, told
        )
        encoder = SpeakerEncoder.of_module(model, name=job.training.encoder)
        people = len(job.recogniser.members)
        logger.info(
            "%s: trained on %d voices of %d speakers, %s", Path(job.file).stem, len(heard), people, job.training
        )
    elif job.untrained == MEAN_LOG_MEL:
        encoder = SpeakerEncoder.of_module(_mean_log_mel(), name=job.untrained)
    else:
        with own_randomness("speaker encoder", job.seed):
            network = make_encoder(job.training.encoder).eval()
        encoder = SpeakerEncoder.of_module(network, name=job.untrained)
    ids = [voice for speaker in sorted(job.voices) for voice in job.voices[speaker].all]
    parts = {voice: chunks(waves[voice], job.chunk_frames) if job.chunk_frames else [waves[voice]] for voice in ids}
    with one_thread():
        embeddings = encoder.embed([part for voice in ids for part in parts[voice]])
    write_embeddings(Path(job.file), ids, [len(parts[voice]) for voice in ids], embeddings)


def _mean_log_mel() -> Callable[[Any], Any]:
    from fl_privacy.models.speaker import LogMel

    front_end = LogMel()
    return lambda wave: front_end.logarithms(wave).mean(dim=1)
