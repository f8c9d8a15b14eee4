"""Train a recogniser on some of a corpus's speakers, and make ready all that an audit of it needs.

    python train_and_audit.py an4 --out runs/one-sided
    fl-privacy run runs/one-sided/heard.toml --out runs/one-sided/heard
    fl-privacy run runs/one-sided/unseen.toml --out runs/one-sided/unseen

A third of the speakers train it, a third do not, and the last third are the attacker's own; chance decides. Of every
member half of the voices are trained on (``heard.toml``, r = 1), the other half are not (``unseen.toml``, r = 0).
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from fl_privacy.attacks.membership.protocol import Voices, split_voices
from fl_privacy.corpora import AudioError, Corpus, Utterance
from fl_privacy.models.encoder import is_silent
from fl_privacy.training.speaker import SpeakerTraining, train_speaker_encoder

SIMULATION = """\
[simulation]
kind = "speaker-membership"
seed = {seed}
[target]
model = "{model}"
[members]
corpus = "folder"
root = "{out}/members-{kind}"
[nonmembers]
corpus = "folder"
root = "{out}/nonmembers-{kind}"
[auxiliary]
corpus = "folder"
root = "{out}/auxiliary"
[shadow]                        # the attacker knows how the recogniser was trained
encoder = "{encoder}"
loss = "{loss}"
steps = {steps}
crop_frames = {crop_frames}
[protocol]
imposters = {imposters}
swaps = {swaps}
voices = {voices}
[[attack]]
name = "pair.mean"
[[attack]]
name = "pair.mean likelihood ratio"
[[attack]]
name = "logistic"
"""


def usable(speech: Corpus) -> dict[str, Utterance]:
    """Return utterances by id, without those that are silent or cannot be decoded."""
    found = {}
    for utterance in speech:
        try:
            if not is_silent(speech.wave(utterance)):
                found[utterance.id] = utterance
        except AudioError as error:
            print(f"left out: {error}")
    return found


def thirds(voices: dict[str, Voices], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Draw members, non-members and the attacker's own speakers, of those with two voices of either kind."""
    names = [name for name, of in sorted(voices.items()) if min(len(of.trained), len(of.unseen)) > 1]
    order = [names[place] for place in np.random.default_rng([seed, 9]).permutation(len(names))]
    size = len(order) // 3
    return order[:size], order[size : 2 * size], order[2 * size :]


def write_folder(folder: Path, utterances: Iterable[Utterance]) -> None:
    """Write a folder that the corpus ``folder`` reads: a manifest of files where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "speaker", "session"])
        for u in utterances:
            assert u.path is not None, "only corpora of files"
            rows.writerow([os.path.relpath(u.path, folder), u.speaker, u.labels.get("session", "")])


def prepare(speech: Corpus, out: Path, training: SpeakerTraining, seed: int, voices: int, imposters: int) -> None:
    """Train, export to TorchScript, and write manifests and simulation files."""
    utterances = usable(speech)
    by_speaker: dict[str, list[str]] = {}
    for name, u in utterances.items():
        by_speaker.setdefault(u.speaker, []).append(name)
    sessions = {name: f"{u.speaker}/{u.labels['session']}" for name, u in utterances.items() if "session" in u.labels}
    split = split_voices(by_speaker, seed, sessions)
    members, nonmembers, others = thirds(split, seed)
    heard = [utterances[name] for speaker in members for name in split[speaker].trained]
    model = train_speaker_encoder([speech.wave(u) for u in heard], [u.speaker for u in heard], training, seed)
    out.mkdir(parents=True, exist_ok=True)
    torch.jit.script(model).save(str(out / "recogniser.pt"))
    for kind, part in (("heard", "trained"), ("unseen", "unseen")):
        for side, people in (("members", members), ("nonmembers", nonmembers)):
            chosen = (utterances[name] for speaker in people for name in getattr(split[speaker], part))
            write_folder(out / f"{side}-{kind}", chosen)
        text = SIMULATION.format(
            seed=seed,
            model=out / "recogniser.pt",
            out=out,
            kind=kind,
            voices=voices,
            imposters=imposters,
            swaps=4,
            encoder=training.encoder,
            loss=training.loss,
            steps=training.steps,
            crop_frames=training.crop_frames,
        )
        (out / f"{kind}.toml").write_text(text, encoding="utf-8")
    write_folder(out / "auxiliary", (utterances[name] for speaker in others for name in split[speaker].all))
    print(f"{len(members)} members, {len(nonmembers)} non-members, {len(others)} speakers of the attacker's own: {out}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", help="a corpus of files, such as an4")
    parser.add_argument("--root", help="its folder; default: $FL_PRIVACY_DATA/<corpus>")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="x-vector", choices=("x-vector", "x-vector-published"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--crop-frames", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--voices", type=int, default=5, help="heard of each candidate")
    parser.add_argument("--imposters", type=int, default=6, help="of the attacker's own; the others train shadows")
    given = parser.parse_args()
    training = SpeakerTraining(given.encoder, steps=given.steps, crop_frames=given.crop_frames)
    speech = Corpus.load(given.corpus, given.root)
    prepare(speech, given.out.resolve(), training, given.seed, given.voices, given.imposters)


if __name__ == "__main__":
    main()
