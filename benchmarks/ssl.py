"""Frame encoders: what their audit spends outside of them, and the basic score beside the double loop.

The encoders have random weights, which take as long as trained ones; utterances are noise of 2 to 6 seconds. Inside is
the forward pass alone, as a stranger would call the model; all else (checks, all layers as arrays, every layer's basic
score and mean frame) is outside. CPU time, one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._result import Result, Row
from fl_privacy._processes import one_thread
from fl_privacy.attacks.membership.ssl import utterance_score
from fl_privacy.attacks.membership.ssl.look import look_at
from fl_privacy.models.frames import FrameEncoder
from fl_privacy.models.pretrained import make_module
from fl_privacy.models.torchaudio_ssl import TorchaudioLayers, make_model

_FRAMES, _WIDTH = 1500, 768
_SHARE, _FASTER = 0.05, 100.0


def run(full: bool) -> Result:
    """Two encoders of full size and our two small ones; one utterance of 1,500 frames of 768 numbers."""
    rng = np.random.default_rng(0)
    with one_thread():
        rows = [
            _share(
                "HuBERT base", TorchaudioLayers(make_model("hubert_base", None, "benchmark").eval(), False), rng, full
            ),
            _share(
                "WavLM base", TorchaudioLayers(make_model("wavlm_base", None, "benchmark").eval(), False), rng, full
            ),
            _share("TERA, published size", make_module("tera", "published").eval(), rng, full),
            _share("TERA, small", make_module("tera").eval(), rng, full, aim=None),
            _share("CPC, small", make_module("cpc").eval(), rng, full, aim=None),
            _basic(rng, full),
        ]
    return Result("ssl", tuple(rows))


def _share(name: str, module: Any, rng: np.random.Generator, full: bool, aim: float | None = _SHARE) -> Row:
    """Time outside the forward pass while an encoder is looked at."""
    inside = 0.0

    def read(wave: NDArray[np.float32], count: int) -> Sequence[torch.Tensor]:
        nonlocal inside
        start = time.process_time()
        with torch.inference_mode():
            layers: Sequence[torch.Tensor] = module.read(torch.from_numpy(wave), count)
        inside += time.process_time() - start
        return layers

    sizes = {"dim": module.dim, "hop": module.hop, "layers": module.depth, "shortest": module.shortest}
    encoder = FrameEncoder(read, name=name, **sizes)
    waves = {
        str(n): rng.normal(0, 0.1, int(rng.integers(32_000, 96_000))).astype(np.float32)
        for n in range(40 if full else 8)
    }
    encoder.all_layers(waves["0"])
    shares = []
    for _ in range(5 if full else 3):
        inside, start = 0.0, time.process_time()
        look_at(encoder.all_layers, waves, list(waves), {})
        total = time.process_time() - start
        shares.append((total - inside) / total)
    share = statistics.median(shares)
    case = f"{name}: share of the time outside its forward pass"
    return Row(case, share, None, None, "of all", share, aim, "at_most", {"utterances": len(waves)})


def _basic(rng: np.random.Generator, full: bool) -> Row:
    """The basic utterance score, closed form against a loop over pairs."""
    frames = rng.standard_normal((_FRAMES, _WIDTH), dtype=np.float32)
    ours = statistics.median(_cpu(lambda: utterance_score(frames)) for _ in range(20))
    rival = statistics.median(_cpu(lambda: double_loop(frames)) for _ in range(3 if full else 1))
    extra = {"difference": abs(utterance_score(frames[:200]) - double_loop(frames[:200]))}
    case = f"basic score of {_FRAMES:,} frames of {_WIDTH}: times as fast"
    return Row(case, 1e3 * ours, 1e3 * rival, "loop over all pairs", "ms", rival / ours, _FASTER, "at_least", extra)


def double_loop(frames: NDArray[np.float32]) -> float:
    """Mean cosine distance of two frames, pair by pair, of frames that are brought to length 1 once."""
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(unit)):
        for j in range(i + 1, len(unit)):
            total += 1.0 - float(unit[i] @ unit[j])
    return 2 * total / (len(unit) * (len(unit) - 1))


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
