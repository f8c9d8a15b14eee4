"""Fit an attack on shadow updates and score private ones: ours and the published CNN, in seconds, memory and AUC.

Captured first layers of the SER federation (gender, RAVDESS attacked by the owner of EmoDB where `$FL_PRIVACY_DATA`
has them, else synthetic voices), one thread, every attack in a fresh process with the shards in the page cache. Memory
is the peak of RssAnon, libraries included. The CNN is timed for 60 s on these updates and **extrapolated** to its
schedule (generation B, 40 epochs). The long form adds FedAvg, and trains the CNN once, 20 epochs on 240 of the updates,
beside ours on the same 240.

Streaming: the raw-coordinate attack on 17,000 updates of its own and 1,600 private ones of 253,184 coordinates (1,700
different ones on the disk), a tenth of them in the short form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import _gender_federation as federation
from benchmarks import _streamed as streamed
from benchmarks._processes import Peak
from benchmarks._result import Result, Row

if TYPE_CHECKING:
    from fl_privacy.attacks import Attack
    from fl_privacy.attacks.question import Question

GIB = 2**30
PRIMARY = "input-reconstruction"
OTHERS = (
    "raw-linear",
    "layer-statistics",
    "gaussian-lr",
    "affine-hull",
    "class-weighted",
    "batch-inputs",
)
OF_GRADIENTS = ("affine-hull", "batch-inputs")
"""Attacks that read nothing off weight differences."""
_ROUNDS = 200
_SECONDS, _EPOCHS = 60.0, 40
_FEW, _FEW_EPOCHS = 240, 20
_AIM = 500.0
_OWN, _PRIVATE = 17_000, 1_600
_EXTRAPOLATED = f"published CNN, extrapolated from {_SECONDS:g} s to {_EPOCHS} epochs"
_TRAINED = f"published CNN, {_FEW_EPOCHS} epochs"


def run(full: bool) -> Result:
    """Measure; the long form also trains the CNN on 240 updates, runs FedAvg, and streams all 17,000 updates."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for algorithm in ("fedsgd", "fedavg") if full else ("fedsgd",):
            _child("federate", place, algorithm)
            rows += _compared(place, algorithm)
            if full and algorithm == "fedsgd":
                rows += _same_few(place, algorithm)
    with tempfile.TemporaryDirectory() as folder:
        rows += _streaming(Path(folder), 1 if full else 10)
    return Result("attribute", tuple(rows))


def _compared(place: Path, algorithm: str) -> list[Row]:
    """Hold each of our attacks against what the CNN would take on the same updates."""
    cnn = _child("speed", place, algorithm)
    rows = []
    for name in (PRIMARY, *OTHERS):
        if algorithm == "fedavg" and name in OF_GRADIENTS:
            continue
        ours = _child("attack", place, algorithm, name)
        if ours is None:  # not an attack of this version
            continue
        case = f"{name} on {algorithm}, {ours['own']} + {ours['private']} updates"
        rows += _cost(case, ours, cnn, _EXTRAPOLATED, _AIM if name == PRIMARY else None)
        low, high = ours["auc_low"], ours["auc_high"]
        said = "no interval" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append(
            Row(f"{case}: AUC per speaker ({said})", ours["auc"], None, None, "fraction", ours["auc"], None, "at_least")
        )
    return rows


def _cost(case: str, ours: dict[str, Any], cnn: dict[str, Any], named: str, aim: float | None) -> list[Row]:
    """Return a row of time and one of memory."""
    told = {"voices": federation.voices(), "measured": ours, "measured_of_rival": cnn}
    faster, smaller = cnn["seconds"] / ours["seconds"], ours["peak"] / cnn["peak"]
    memory = [side["peak"] / GIB for side in (ours, cnn)]
    return [
        Row(f"{case}: time", ours["seconds"], cnn["seconds"], named, "s", faster, aim, "at_least", told),
        Row(f"{case}: memory", memory[0], memory[1], named, "GiB", smaller, None, "at_most", told),
    ]


def _same_few(place: Path, algorithm: str) -> list[Row]:
    """Train the CNN, and ours, on the same few updates; compare their AUC on all private ones."""
    ours, cnn = (_child("attack", place, algorithm, name, _FEW) for name in (PRIMARY, "cnn"))
    interval = _child("difference", place, algorithm, PRIMARY, _FEW)
    case = f"{PRIMARY} on {algorithm}, {ours['own']} + {ours['private']} updates"
    gain = ours["auc"] - cnn["auc"]
    said = "no interval" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
    row = Row(
        case=f"{case}: AUC per speaker, difference ({said})",
        ours=ours["auc"],
        rival=cnn["auc"],
        rival_name=_TRAINED,
        unit="fraction",
        ratio=gain,
        aim=0.0,
        aim_is="at_least",
        extra={"interval": interval},
    )
    return [*_cost(case, ours, cnn, _TRAINED, None), row]


def _streaming(place: Path, part: int) -> list[Row]:
    """Run the raw-coordinate attack on far more updates than memory holds."""
    _child("write", place)
    told = _child("stream", place, number=part)
    own, private = told["own"], told["private"]
    case = f"raw-linear, {own:,} + {private:,} updates x {streamed.COORDINATES:,}"
    whole = (own + private) * streamed.COORDINATES * 4 / GIB
    rival = "all updates in memory (computed)"
    peak = told["peak"] / GIB
    return [
        Row(f"{case}: anonymous memory", peak, whole, rival, "GiB", peak, 2.0, "at_most", told),
        Row(f"{case}: time", told["seconds"], None, None, "s", told["seconds"], None, "at_most", told),
    ]


def _child(action: str, place: Path, algorithm: str = "", name: str = "", number: int = 0) -> Any:
    """Do one piece of work in a fresh process and return what it measured."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attribute", action, str(place), algorithm, name, str(number)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{action} {algorithm} {name} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    # Hours are at stake: what is known stands there, whatever becomes of the rest.
    print(f"{action} {algorithm} {name}: {json.dumps(told)}".replace("  ", " "), file=sys.stderr, flush=True)
    return told


# ------------------------------------------------------------------ in the child


def _main(action: str, place: Path, algorithm: str, name: str, number: int) -> Any:
    match action:
        case "federate":
            federation.federate(place / algorithm, algorithm, _ROUNDS)
        case "write":
            streamed.write(place / "updates")
        case "stream":
            return _stream(place / "updates", _OWN // number, _PRIVATE // number)
        case "speed":
            return _speed(_question(place, algorithm))
        case "attack":
            return _attack(place, algorithm, name, number)
        case "difference":
            question = _question(place, algorithm)
            ours, cnn = (
                question.audit(np.load(_scores(place, algorithm, attack, number)), attack, 0.95)
                for attack in (name, "cnn")
            )
            return ours.headline_difference(cnn)
    return None


def _question(place: Path, algorithm: str) -> Question:
    """Return the question, with every update in the page cache."""
    question = federation.question(place / algorithm, algorithm, _ROUNDS)
    for side in (question.own, question.private):
        for update in side.updates:
            for array in update.arrays.values():
                array.max()
    return question


def _scores(place: Path, algorithm: str, name: str, few: int) -> Path:
    return place / f"{algorithm}-{name}-{few}.npy"


def _attack(place: Path, algorithm: str, name: str, few: int) -> dict[str, Any] | None:
    """Fit and score; return seconds, peak memory and AUC. None where there is no such attack."""
    from fl_privacy.attacks.base import BUILT_IN, make_attacks

    if name not in BUILT_IN:
        return None
    question = _question(place, algorithm)
    entry: dict[str, Any] = {"name": name}
    if name == "cnn":
        entry |= {"generation": "B", "epochs": _FEW_EPOCHS, "device": "cpu"}
    ((_, attack),) = make_attacks([entry])
    if attack.needs - question.supplies:
        return None
    told, scores = _measured(attack, question, few)
    np.save(_scores(place, algorithm, name, few), scores)
    auc = question.audit(scores, name, 0.95).headline_estimate("speaker")
    return {**told, "auc": auc.value, "auc_low": auc.low, "auc_high": auc.high}


def _measured(attack: Attack, question: Question, few: int) -> tuple[dict[str, Any], Any]:
    """Fit on the attacker's updates, or on so many of them, spread evenly over the rounds; score the private ones."""
    count = len(question.own.updates)
    rows = np.zeros(count, dtype=np.bool_)
    rows[np.linspace(0, count - 1, min(few or count, count)).round().astype(np.int64)] = True
    own = [question.own.updates[i] for i in np.flatnonzero(rows).tolist()]
    labels, auxiliary = question.labels(question.own)[rows], question.auxiliary.where(rows)
    with Peak() as peak:
        began = time.perf_counter()
        scores = attack.fit(own, labels, auxiliary).decision_function(question.private.updates)
        seconds = time.perf_counter() - began
    sizes = {"own": len(own), "private": len(question.private.updates)}
    return {"seconds": seconds, "peak": peak.bytes, **sizes}, scores


def _speed(question: Question) -> dict[str, Any]:
    """Time the CNN, and extrapolate to its schedule on all updates."""
    from fl_privacy.attacks.attribute.cnn import PublishedCNN
    from fl_privacy.attacks.attribute.cnn_speed import measure_speed

    own, private = question.own, question.private
    with Peak() as peak:
        speed = measure_speed(
            PublishedCNN(generation="B", device="cpu"),
            own.updates,
            question.labels(own),
            question.auxiliary,
            seconds=_SECONDS,
        )
    seconds = speed.of_fit(len(own.updates), _EPOCHS) + speed.scored * len(private.updates)
    return {"seconds": seconds, "peak": peak.bytes, "a_trained_update": speed.trained, "timed_updates": speed.updates}


def _stream(place: Path, own: int, private: int) -> dict[str, Any]:
    """Fit on so many updates and score so many; return seconds and peak memory."""
    from fl_privacy.attacks import Auxiliary
    from fl_privacy.attacks.attribute import RawLinear

    mine, theirs = streamed.clients(place, "own", own, 100), streamed.clients(place, "private", private, 90)
    labels = np.arange(own) % 100 % 2
    auxiliary = Auxiliary(tuple(update.client for update in mine), ("f", "m"))
    with Peak() as peak:
        began = time.perf_counter()
        attack = RawLinear().fit(mine, labels, auxiliary)
        fitted = time.perf_counter()
        attack.decision_function(theirs)
        ended = time.perf_counter()
    told = {"peak": peak.bytes, "seconds": ended - began, "fit_seconds": fitted - began}
    return {**told, "own": own, "private": private}


if __name__ == "__main__":
    found = _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    print(json.dumps(found))
