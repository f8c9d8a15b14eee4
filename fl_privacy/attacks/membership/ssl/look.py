"""What the attacks see of one encoder: a small table for all utterances, from one pass over them.

Frames are far too many to keep. Those of the attacker's own utterances lie in a temporary file while the improved
attacks learn; of every other utterance they are dropped once it is scored. Each utterance goes through the encoder
alone, so that its scores are the same whatever else is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.ssl.pooling import SpeakerNet, UtteranceNet
from fl_privacy.attacks.membership.ssl.pseudo_labels import (
    Frames,
    Learning,
    answer,
    train_speaker_net,
    train_utterance_net,
)
from fl_privacy.attacks.membership.ssl.scores import speaker_score, utterance_score
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]
Layers = Sequence[NDArray[np.float32]]
Encode = Callable[[NDArray[np.float32]], Layers]
"""Frames (m, q) of one wave under each layer."""

_ARRAYS = ("basic", "means", "improved", "projected", "loss", "loss_whole")


@dataclass(frozen=True)
class Look:
    """What the attacks see of one encoder.

    Attributes
    ----------
    ids : tuple of str
        Utterances.
    basic : ndarray, shape (n, layers)
        Basic utterance score of each layer.
    means : ndarray of float32, shape (n, layers, q)
        Mean frame of each layer.
    improved : ndarray, shape (n,)
        Log-odds of the improved utterance attack; NaN where it was not asked for.
    projected : ndarray of float32, shape (n, q)
        Vectors of the improved speaker attack; no columns where it was not asked for.
    loss, loss_whole : ndarray, shape (n,)
        Pre-training loss on crops, and on the whole utterance; NaN where there is none.
    left_out : mapping of str to str
        Utterances that could not be read, or that the encoder refused, and why.
    """

    ids: tuple[str, ...]
    basic: Floats
    means: NDArray[np.float32]
    improved: Floats
    projected: NDArray[np.float32]
    loss: Floats
    loss_whole: Floats
    left_out: Mapping[str, str] = field(default_factory=dict)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of some utterances."""
        return np.array([self._places[name] for name in ids], dtype=np.int64)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as out:
            told = {"ids": self.ids, "lost": tuple(self.left_out), "reasons": tuple(self.left_out.values())}
            texts: dict[str, Any] = {name: np.array(values, dtype=np.str_) for name, values in told.items()}
            np.savez(out, **texts, **{name: getattr(self, name) for name in _ARRAYS})
        os.replace(temporary, path)

    @classmethod
    def read(cls, path: Path) -> Look:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as held:
            texts = {name: held[name].tolist() for name in ("ids", "lost", "reasons")}
            arrays = {name: held[name] for name in _ARRAYS}
        return cls(tuple(texts["ids"]), **arrays, left_out=dict(zip(texts["lost"], texts["reasons"], strict=True)))


class FrameFile:
    """Frames of many utterances in one file, mapped into memory when they are read.

    Parameters
    ----------
    path : Path

    Raises
    ------
    UserError
        Of `add`, where there is no room for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out = path.open("wb", buffering=0)
        self._ends = [0]
        self._dim = 0

    def add(self, frames: NDArray[np.float32]) -> None:
        """Put the frames (m, q) of a further utterance behind the others."""
        rows = np.ascontiguousarray(frames, dtype=np.float32)
        self._dim = rows.shape[1]
        try:
            written = self._out.write(rows.data)
        except OSError as error:
            raise self._full(error.strerror) from error
        if written != rows.nbytes:
            raise self._full("no space left")
        self._ends.append(self._ends[-1] + len(rows))

    def _full(self, why: str | None) -> UserError:
        return UserError(
            f"improved attack: frames of the attacker's own utterances find no room in {self._path.parent} ({why}); "
            "set TMPDIR to a larger place, or ask of fewer utterances"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def __getitem__(self, number: int) -> NDArray[np.float32]:
        """Frames of an utterance, in the order in which they were added."""
        mapped = np.memmap(self._path, dtype=np.float32, mode="r", shape=(self._ends[-1], self._dim))
        return np.array(mapped[self._ends[number] : self._ends[number + 1]])


def look_at(
    encode: Encode,
    waves: Mapping[str, NDArray[np.float32]] | Callable[[str], NDArray[np.float32]],
    candidates: Sequence[str],
    auxiliary: Mapping[str, Sequence[str]],
    *,
    layer: int = -1,
    learning: Learning | None = None,
    seed: int = 0,
    compat: bool = False,
    told: Callable[[int], None] | None = None,
) -> Look:
    """Ask an encoder of utterances, one by one.

    Parameters
    ----------
    encode : callable
        Frames of a wave under each layer.
    waves : mapping or callable
        The wave of an utterance, by its id.
    candidates : sequence of str
        Ids of the utterances that are attacked.
    auxiliary : mapping of str to sequence of str
        Ids of the utterances of each of the attacker's own speakers; they may be candidates too.
    layer : int
        That the improved attacks read.
    learning : Learning, optional
        Of the improved attacks; None: leave them out.
    seed : int
        Of these.
    compat : bool
        See `fl_privacy.attacks.membership.ssl.pooling.AttentionPooling`; it shows in training alone, since an utterance
        that is scored alone has no padding.
    told : callable, optional
        Told how many utterances are done.

    Returns
    -------
    Look
        Of auxiliary utterances, then of other candidates.
    """
    hear = waves if callable(waves) else waves.__getitem__
    left_out: dict[str, str] = {}
    done = 0

    def asked(id: str) -> NDArray[np.float32] | None:
        nonlocal done
        found = None
        try:
            layers = encode(hear(id))
            if not -len(layers) <= layer < len(layers):
                raise UserError(f"the encoder has no layer {layer}; it has {len(layers)}, counted from 0")
            rows.append(_seen(layers))
        except UserError as error:
            left_out[id] = str(error)
        else:
            ids.append(id)
            found = layers[layer]
        done += 1
        if told is not None:
            told(done)
        return found

    wanted = list(dict.fromkeys(id for ids in auxiliary.values() for id in ids))
    others = [id for id in dict.fromkeys(candidates) if id not in set(wanted)]
    ids: list[str] = []
    rows: list[tuple[Floats, NDArray[np.float32]]] = []
    improved: list[float] = []
    projected: list[NDArray[np.float32]] = []
    nets: tuple[UtteranceNet, SpeakerNet] | None = None

    def answered(frames: NDArray[np.float32]) -> None:
        if nets is not None:
            improved.append(float(answer(nets[0], frames)))
            projected.append(answer(nets[1], frames).astype(np.float32))

    with TemporaryDirectory(prefix="fl-privacy-frames-") as folder, FrameFile(Path(folder) / "frames") as kept:
        for id in wanted:
            frames = asked(id)
            if frames is not None and learning is not None:
                kept.add(frames)
        if wanted and not ids:
            raise UserError(f"the encoder answered to no utterance: {next(iter(left_out.values()))}")
        if learning is not None:
            nets = _nets(kept.__getitem__, ids, rows, auxiliary, layer, learning, seed, compat)
            for number in range(len(ids)):
                answered(kept[number])
    for id in others:
        frames = asked(id)
        if frames is not None:
            answered(frames)
    if not ids:
        raise UserError(f"the encoder answered to no utterance: {next(iter(left_out.values()), 'there is none')}")
    nothing = np.full(len(ids), np.nan)
    return Look(
        tuple(ids),
        np.stack([scores for scores, _ in rows]),
        np.stack([means for _, means in rows]),
        np.array(improved) if nets else nothing,
        np.stack(projected) if nets else np.empty((len(ids), 0), dtype=np.float32),
        nothing,
        nothing,
        left_out,
    )


def _nets(
    frames: Frames,
    ids: Sequence[str],
    rows: Sequence[tuple[Floats, NDArray[np.float32]]],
    auxiliary: Mapping[str, Sequence[str]],
    layer: int,
    learning: Learning,
    seed: int,
    compat: bool,
) -> tuple[UtteranceNet, SpeakerNet]:
    dim = rows[0][1].shape[1] if rows else 0
    basic = np.array([scores[layer] for scores, _ in rows])
    numbers = {id: number for number, id in enumerate(ids)}
    people = [[numbers[id] for id in of if id in numbers] for of in auxiliary.values()]
    speakers = [mine for mine in people if len(mine) > 1]
    close = [speaker_score(np.stack([rows[n][1][layer] for n in mine])) for mine in speakers]
    return (
        train_utterance_net(frames, basic, dim, learning, seed, compat=compat),
        train_speaker_net(frames, speakers, close, dim, learning, seed, compat=compat),
    )


def _seen(layers: Layers) -> tuple[Floats, NDArray[np.float32]]:
    """Return basic score (layers,) and mean frame (layers, q) of one utterance."""
    scores = np.array([utterance_score(frames) for frames in layers])
    means = np.stack([np.asarray(frames, dtype=np.float64).mean(axis=0) for frames in layers])
    return scores, means.astype(np.float32)
