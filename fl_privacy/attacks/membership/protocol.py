"""Who trains which recogniser, and which voices the attack then hears.

Five sets of speakers, disjoint for every target: its members and non-members, the shadow recognisers' members and
non-members, and imposters (Chen, Zhang and Song 2024, arXiv 2309.07983). Roles are swapped: the speakers but the
imposters are parted into two pools, each pool is halved several times, and each half trains a recogniser. Every
recogniser is a target, whose shadows are those of the other pool; so every speaker is a member of half of the targets
of the pool and a non-member of the other half, and nothing about a speaker alone says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

FRAME = 160
"""Samples of a frame: 10 ms at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Recogniser:
    """One recogniser of a swap design.

    Attributes
    ----------
    pool : int
        0 or 1.
    members, nonmembers : tuple of str
        The speakers of the pool that it is trained on, and the others.
    """

    pool: int
    members: tuple[str, ...]
    nonmembers: tuple[str, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Members, then non-members."""
        return (*self.members, *self.nonmembers)


@dataclass(frozen=True, slots=True)
class SwapDesign:
    """Speakers in their roles.

    Attributes
    ----------
    imposters : tuple of str
        Members of no recogniser, known to the attacker.
    recognisers : tuple of Recogniser
        Each the target once; two in a row have each other's members as non-members.
    """

    imposters: tuple[str, ...]
    recognisers: tuple[Recogniser, ...]

    def shadows(self, target: int) -> tuple[int, ...]:
        """Numbers of the recognisers that share no speaker with a target's pool."""
        pool = self.recognisers[target].pool
        return tuple(number for number, other in enumerate(self.recognisers) if other.pool != pool)

    def speakers(self, pool: int) -> tuple[str, ...]:
        """The speakers of a pool, sorted."""
        return tuple(sorted(next(r.speakers for r in self.recognisers if r.pool == pool)))


def swap_design(speakers: Sequence[str], imposters: int, swaps: int, seed: int) -> SwapDesign:
    """Draw a design.

    Parameters
    ----------
    speakers : sequence of str
    imposters : int
        How many of them are imposters.
    swaps : int
        How many times each pool is halved; 4 times this many recognisers.
    seed : int

    Raises
    ------
    UserError
        Where fewer than four speakers would be in a pool, or there is no imposter or swap.
    """
    names = sorted(set(speakers))
    if imposters < 1 or swaps < 1:
        raise UserError(f"a swap design needs an imposter and a swap at least; got {imposters} and {swaps}")
    size = (len(names) - imposters) // 4 * 2
    if size < 4:
        raise UserError(
            f"{len(names)} speakers, {imposters} of them imposters: too few for two pools of at least four; "
            "give more speakers, or fewer imposters"
        )
    rng = np.random.default_rng([seed, 0])
    order = [names[place] for place in rng.permutation(len(names))]
    recognisers = []
    for pool in (0, 1):
        mine = order[pool * size : (pool + 1) * size]
        for _ in range(swaps):
            drawn = [mine[place] for place in rng.permutation(size)]
            halves = tuple(sorted(drawn[: size // 2])), tuple(sorted(drawn[size // 2 :]))
            recognisers += [Recogniser(pool, halves[0], halves[1]), Recogniser(pool, halves[1], halves[0])]
    return SwapDesign(tuple(sorted(order[2 * size :])), tuple(recognisers))


def one_sided_design(
    members: Sequence[str], nonmembers: Sequence[str], auxiliary: Sequence[str], imposters: int, swaps: int, seed: int
) -> SwapDesign:
    """Draw a design around one recogniser that is there already.

    Its members and non-members are whoever they are: nothing is swapped, and what sets one group of people or
    recordings apart from the other looks like membership. Blind baselines say how much that is.

    Parameters
    ----------
    members, nonmembers : sequence of str
        Speakers who trained the target, and who did not.
    auxiliary : sequence of str
        Other speakers: imposters, and those who train shadows.
    imposters : int
        How many of these are imposters.
    swaps : int
        How many times the other auxiliary speakers are halved; each half trains a shadow.
    seed : int

    Returns
    -------
    SwapDesign
        The target is recogniser 0, alone in its pool.

    Raises
    ------
    UserError
        Where fewer than four auxiliary speakers are left to train shadows, or there is no imposter or swap.
    """
    names = sorted(set(auxiliary))
    if imposters < 1 or swaps < 1:
        raise UserError(f"a one-sided design needs an imposter and a swap at least; got {imposters} and {swaps}")
    size = (len(names) - imposters) // 2 * 2
    if size < 4:
        raise UserError(
            f"{len(names)} auxiliary speakers, {imposters} of them imposters: too few; at least four train shadows"
        )
    rng = np.random.default_rng([seed, 0])
    order = [names[place] for place in rng.permutation(len(names))]
    recognisers = [Recogniser(0, tuple(sorted(members)), tuple(sorted(nonmembers)))]
    for _ in range(swaps):
        drawn = [order[place] for place in rng.permutation(size)]
        halves = tuple(sorted(drawn[: size // 2])), tuple(sorted(drawn[size // 2 :]))
        recognisers += [Recogniser(1, halves[0], halves[1]), Recogniser(1, halves[1], halves[0])]
    return SwapDesign(tuple(sorted(order[size:])), tuple(recognisers))


@dataclass(frozen=True, slots=True)
class Voices:
    """One speaker's voices.

    Attributes
    ----------
    trained : tuple of str
        Ids of those that a recogniser is trained on, where the speaker is a member.
    unseen : tuple of str
        Ids of those that no recogniser is trained on.
    """

    trained: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Trained ones, then unseen ones."""
        return (*self.trained, *self.unseen)

    def draw(self, r: float, n: int, rng: np.random.Generator) -> tuple[str, ...]:
        """Draw the voices that an attack hears.

        The draw knows nothing of membership: a speaker is heard alike as a member and as a non-member.

        Parameters
        ----------
        r : float
            The share that comes from `trained`: 1 are training voices alone, 0 unseen ones.
        n : int
            How many; fewer where the speaker has no more, at the same r.
        rng : numpy.random.Generator

        Returns
        -------
        tuple of str
            Without repeats.
        """
        if not 0.0 <= r <= 1.0 or n < 1:
            raise UserError(f"inference voices: r must lie in [0, 1] and their number be positive; got {r} and {n}")
        while n > 1 and (round(r * n) > len(self.trained) or n - round(r * n) > len(self.unseen)):
            n -= 1
        old = min(round(r * n), len(self.trained))
        new = min(n - old, len(self.unseen))
        chosen = [self.trained[i] for i in rng.permutation(len(self.trained))[:old]]
        return tuple(chosen + [self.unseen[i] for i in rng.permutation(len(self.unseen))[:new]])


def split_voices(
    voices: Mapping[str, Sequence[str]], seed: int, sessions: Mapping[str, str] | None = None
) -> dict[str, Voices]:
    """Part each speaker's voices into those for training and those that stay unseen, half and half.

    Where sessions are known, none is on both sides: a voice recorded with a training voice shares its microphone and
    room, which would make r = 0 easier than it is.

    Parameters
    ----------
    voices : mapping of str to sequence of str
        Ids by speaker.
    seed : int
    sessions : mapping of str to str, optional
        Session of each id. Speakers with one session are split by voice.

    Returns
    -------
    dict of str to Voices
    """
    found = {}
    for number, speaker in enumerate(sorted(voices)):
        rng = np.random.default_rng([seed, 1, number])
        ids = sorted(voices[speaker])
        groups: dict[str, list[str]] = {}
        for name in ids:
            groups.setdefault(name if sessions is None else sessions.get(name, name), []).append(name)
        if len(groups) < 2:
            groups = {name: [name] for name in ids}
        trained: list[str] = []
        unseen: list[str] = []
        parts = list(groups.values())
        # Long sessions first, each to the side that has fewer; a tie goes to training: ceil(n / 2) of n.
        for place in sorted(rng.permutation(len(parts)), key=lambda place: -len(parts[place])):
            (trained if len(trained) <= len(unseen) else unseen).extend(parts[place])
        found[speaker] = Voices(tuple(trained), tuple(unseen))
    return found


def chunks(
    wave: NDArray[np.float32], frames: int = 320, *, overlap: float = 0.5, pad: bool = False
) -> list[NDArray[np.float32]]:
    """Split a voice into chunks, each of which counts as a voice ("voice chunk splitting").

    Parameters
    ----------
    wave : ndarray of float32, shape (samples,)
        16 kHz.
    frames : int
        Length of a chunk, 10 ms each.
    overlap : float
        Of two chunks in a row.
    pad : bool
        Fill up the last chunk with silence, as the public code does.

    Returns
    -------
    list of ndarray
        At least one; the last is dropped where less than three quarters of it is covered.
    """
    length = frames * FRAME
    step = max(1, round(frames * (1 - overlap))) * FRAME
    found = []
    for number in range(max(1, math.ceil(max(0, len(wave) - length) / step) + 1)):
        chunk = wave[number * step : number * step + length]
        if number and len(chunk) < 0.75 * length:
            break
        found.append(np.pad(chunk, (0, length - len(chunk))) if pad else chunk)
    return found
