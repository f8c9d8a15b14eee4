"""Encoders of a run: pre-trained over processes, each asked of every utterance, what was seen kept in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.ssl.look import Encode, Look, look_at
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.ssl_recordings import Inputs, Recordings, Wave, recordings
from fl_privacy.training._parallel import Told, run_jobs

if TYPE_CHECKING:
    from fl_privacy.models.frames import FrameEncoder
    from fl_privacy.models.pretrained import Module
    from fl_privacy.training.pretraining import Pretraining

PRETRAINED, RANDOM, LOG_MEL, GIVEN = "pre-trained", "random initialisation", "log-mel", "given"


@dataclass(frozen=True, slots=True)
class GivenEncoder:
    """An encoder that somebody trained.

    Attributes
    ----------
    checkpoint : str or None
        File of weights, or a folder; None: torch's hub cache.
    architecture : str
    parameters : tuple of (str, object)
        Sizes, where the architecture takes some.
    encoder : str or None
        ``package.module:object`` instead: a `FrameEncoder`, or a function of a wave that returns frames (m, q).
    """

    checkpoint: str | None = None
    architecture: str = ""
    parameters: tuple[tuple[str, Any], ...] = ()
    encoder: str | None = None

    @property
    def known(self) -> bool:
        """Whether the network is one of ours or torchaudio's, which can be made anew."""
        return self.encoder is None and ":" not in self.architecture


@dataclass(frozen=True)
class EncoderJob:
    """What a process needs to make one encoder and ask it.

    Attributes
    ----------
    kind : str
        `PRETRAINED`, `RANDOM` (the network as it is initialised), `LOG_MEL` (no network), or `GIVEN`.
    sources : tuple of Source
    members : tuple of str
        Ids of the utterances that pre-train it.
    training : Pretraining or None
        How; also says the network of a random initialisation.
    given : GivenEncoder or None
        Of a given encoder, or the network of its random initialisation.
    inputs : Inputs
    candidates : tuple of str
    auxiliary : mapping of str to tuple of str
        Ids of the utterances of each of the attacker's own speakers.
    learning : Learning or None
        Of the improved attacks.
    layer : int
    seed : int
        Of the weights.
    loss_crops : int
        Of each utterance, on which the pre-training loss is taken; 0: it is not.
    whole_masks : int
        Masks (or draws of negatives) for the loss of the whole utterance; 0: it is not taken.
    backwards : bool
        Pre-train on waves turned around in time.
    file : str
        Where what is seen goes; a job whose file is there is done.
    crop_seconds : float or None
        Of the loss; None: as in the encoder's own training.
    checkpoint : str or None
        Where a pre-trained encoder goes, as `fl_privacy.training.pretraining.save_module` writes it.
    """

    kind: str
    sources: tuple[Source, ...]
    members: tuple[str, ...]
    training: Pretraining | None
    given: GivenEncoder | None
    inputs: Inputs
    candidates: tuple[str, ...]
    auxiliary: Mapping[str, tuple[str, ...]]
    learning: Learning | None
    layer: int
    seed: int
    loss_crops: int
    whole_masks: int
    file: str
    backwards: bool = False
    checkpoint: str | None = None
    crop_seconds: float | None = None


def look_through_encoders(
    jobs: Sequence[EncoderJob], processes: int, told: Callable[[int, int], None] | None = None
) -> list[Look]:
    """Make encoders, ask them, and write what is seen; files that are there stay.

    Parameters
    ----------
    jobs : sequence of EncoderJob
    processes : int
    told : callable, optional
        Told the number of a job (among those that were not done) and how much of it is.
    """
    run_jobs(_make_and_look, [job for job in jobs if not Path(job.file).exists()], processes, told)
    return [Look.read(Path(job.file)) for job in jobs]


def _make_and_look(job: EncoderJob, told: Told) -> None:
    from fl_privacy._processes import one_thread

    held = recordings(job.sources)
    encode, module = _made(job, held, told)
    with one_thread():
        seen = look_at(
            encode,
            lambda id: job.inputs.of(held.wave(id)),
            job.candidates,
            job.auxiliary,
            layer=job.layer,
            learning=job.learning,
            seed=job.seed,
        )
        if module is not None and (job.loss_crops or job.whole_masks):
            crops, whole = _losses(module, held, seen.ids, job)
            seen = replace(seen, loss=crops, loss_whole=whole)
        if module is not None and job.kind == PRETRAINED:
            write_atomically(facts_file(Path(job.file)), json.dumps(jsonable(module.record), indent=1) + "\n")
    seen.write(Path(job.file))


def facts_file(file: Path) -> Path:
    """Where it says how the encoder of a job's file was pre-trained, and what privacy that cost."""
    return file.with_suffix(".json")


def _made(job: EncoderJob, held: Recordings, told: Told) -> tuple[Encode, Module | None]:
    from fl_privacy.models import frames

    if job.kind == LOG_MEL:
        return frames.log_mel_encoder().all_layers, None
    if job.kind == PRETRAINED:
        module = _pretrained(job, held, told)
        return frames.encoder_of(module).all_layers, module
    if job.kind == RANDOM and job.training is not None:
        untrained = frames.untrained_frame_encoder(job.training.model, job.seed, size=job.training.size)
        return untrained.all_layers, None
    assert job.given is not None
    seed = job.seed if job.kind == RANDOM else None
    own = given_module(job.given, seed)
    if own is not None:
        return frames.encoder_of(own).all_layers, own
    return given_encoder(job.given, seed).all_layers, None


def _pretrained(job: EncoderJob, held: Recordings, told: Told) -> Module:
    from fl_privacy.training import pretraining

    assert job.training is not None
    assert job.checkpoint is not None
    done = Path(job.checkpoint)
    if done.exists():  # killed while it was asked
        return pretraining.load_module(done, job.training.model)
    waves = [_turned(held.wave(id), job.backwards) for id in job.members]
    names = [held.speakers[id] for id in job.members]
    under_way = done.with_suffix(".training")
    module = pretraining.pretrain(waves, names, job.training, job.seed, checkpoint=under_way, told=told)
    pretraining.save_module(module, done)
    under_way.unlink()
    return module


def given_encoder(given: GivenEncoder, seed: int | None = None) -> FrameEncoder:
    """Load an encoder, or make the same network with weights drawn anew.

    Parameters
    ----------
    given : GivenEncoder
    seed : int, optional
        Of new weights.

    Returns
    -------
    FrameEncoder

    Raises
    ------
    UserError
        For whatever is wrong with it.
    """
    from fl_privacy._registry import find_object
    from fl_privacy.models import frames

    parameters = dict(given.parameters) or None
    if seed is not None and not given.known:
        return given_encoder(given).untrained(seed)
    if seed is not None:
        return frames.untrained_frame_encoder(given.architecture, seed, parameters=parameters)
    if given.encoder is None:
        return frames.load_frame_encoder(given.checkpoint, given.architecture, parameters=parameters)
    found = find_object(given.encoder, {}, "frame encoder")
    if isinstance(found, frames.FrameEncoder):
        return found
    if not callable(found):
        raise UserError(f"frame encoder {given.encoder!r} is no FrameEncoder and no function of a wave")
    return frames.FrameEncoder.of_callable(found, name=given.encoder)


def without_untrained(given: GivenEncoder) -> str | None:
    """Say why the same network cannot be made with weights drawn anew; None where it can.

    Raises
    ------
    UserError
        For an encoder that cannot be loaded.
    """
    if given.known:
        return None
    encoder = given_encoder(given)
    try:
        encoder.untrained(0)
    except UserError as error:
        return str(error)
    return None


def given_module(given: GivenEncoder, seed: int | None = None) -> Module | None:
    """Load the TERA or CPC of a file of ours, head and all, or make the same network with weights drawn anew.

    Parameters
    ----------
    given : GivenEncoder
    seed : int, optional
        Of new weights.

    Returns
    -------
    TERA, CPC or None
        None for another architecture, or without a file.
    """
    from fl_privacy.models.pretrained import IN_REPO, load_module, untrained_module

    if given.encoder is not None or given.architecture not in IN_REPO or given.checkpoint is None or given.parameters:
        return None
    module = load_module(Path(given.checkpoint).expanduser(), given.architecture)
    return module if seed is None else untrained_module(given.architecture, seed, module.sizes)


def _losses(
    module: Module, held: Recordings, ids: Sequence[str], job: EncoderJob
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the losses (n,) of candidates on crops and on whole utterances, NaN of others and where not asked for."""
    from fl_privacy.training.pretraining import pretraining_losses

    # Every encoder gets the same crops, masks and negatives of an utterance: they come from one seed and its samples.
    found = np.full((2, len(ids)), np.nan)
    asked: dict[str, Any] = {"seed": 0, "crop_seconds": job.crop_seconds}
    for row in np.flatnonzero(np.isin(ids, job.candidates)).tolist():
        wave = [_asked(held.wave(ids[row]), job)]
        if job.loss_crops:
            found[0, row] = pretraining_losses(module, wave, crops=job.loss_crops, **asked)[0]
        if job.whole_masks:
            found[1, row] = pretraining_losses(module, wave, crops=job.whole_masks, full_length=True, **asked)[0]
    return found[0], found[1]


def _asked(wave: Wave, job: EncoderJob) -> Wave:
    """Return that of a wave on which a loss is taken, at the level at which pre-training hears it.

    With swapped roles, all of it. Where members may be longer than others, what attacks on frames are sent: else the
    loss could tell how long it is.
    """
    return _turned(wave, job.inputs.backwards) if job.given is None else replace(job.inputs, peak=False).of(wave)


def _turned(wave: Wave, backwards: bool) -> Wave:
    return np.ascontiguousarray(wave[::-1]) if backwards else wave
