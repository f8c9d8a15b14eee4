"""A speaker classifier as its user sees it: windows in, scores out; a sentence in, a name out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy.errors import UserError
from fl_privacy.models.sincnet import PUBLISHED, SincNet, SincNetSize

Wave = NDArray[np.float32]

_AT_ONCE = 64
"""Windows that go through the network together: more would not stay in the cache."""

_LOUD = 0.1
"""Share of the mean energy above which a window counts for the d-vector of a sentence."""

_FORMAT = "fl-privacy speaker classifier 1"


class SpeakerClassifier:
    """A trained network and the names of its classes.

    Parameters
    ----------
    network : Module
        Has `dvector` (windows (n, window) -> (n, d)) and `classify` (d-vectors -> scores before the softmax). It is put
        into evaluation mode and its parameters ask for no gradients.
    classes : sequence of str
        Names of the speakers, in the order of the scores.
    sample_rate : int
        In Hz.
    window, shift : int
        Samples that the network listens to, and between windows of a sentence.

    Attributes
    ----------
    queries : int
        Windows classified so far.

    Raises
    ------
    UserError
        If the network has no such methods, a number is not positive or a name stands twice.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        sample_rate: int = 16_000,
        window: int = 3200,
        shift: int = 160,
    ) -> None:
        for method in ("dvector", "classify"):
            if not callable(getattr(network, method, None)):
                raise UserError(f"speaker classifier: {type(network).__name__} has no method {method}")
        if min(sample_rate, window, shift) < 1:
            raise UserError("speaker classifier: sample_rate, window and shift must be positive")
        if len(set(classes)) < len(classes) or len(classes) < 2:
            raise UserError("speaker classifier: give two names of classes at least, each once")
        self.network = network.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.sample_rate, self.window, self.shift = sample_rate, window, shift
        self.queries = 0

    def __repr__(self) -> str:
        return f"<SpeakerClassifier: {len(self.classes)} speakers, windows of {self.window} at {self.sample_rate} Hz>"

    @property
    def device(self) -> torch.device:
        """Where the network's parameters lie."""
        return next(iter(self.network.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's parameters."""
        return next(iter(self.network.parameters())).dtype

    def dvectors(self, windows: Tensor) -> Tensor:
        """Return the last hidden layer (n, d) of windows (n, window), differentiable.

        Raises
        ------
        UserError
            For windows of another length.
        """
        if windows.ndim != 2 or windows.shape[1] != self.window:
            raise UserError(f"windows of shape {tuple(windows.shape)}; the classifier takes (n, {self.window})")
        self.queries += len(windows)
        found: Tensor = cast(Any, self.network).dvector(windows)
        return found

    def classify(self, dvectors: Tensor) -> Tensor:
        """Return the scores (n, classes) of d-vectors (n, d), differentiable."""
        scores: Tensor = cast(Any, self.network).classify(dvectors)
        return scores

    def logits(self, windows: Tensor) -> Tensor:
        """Return the scores (n, classes), before the softmax, of windows (n, window), differentiable."""
        return self.classify(self.dvectors(windows))

    def number(self, name: str) -> int:
        """Return the class of a name.

        Raises
        ------
        UserError
            If there is none.
        """
        if name not in self.classes:
            raise UserError(f"the classifier knows no speaker {name!r}; it has {len(self.classes)} classes")
        return self.classes.index(name)

    @torch.no_grad()
    def posteriors(self, wave: Wave, shift: int | None = None) -> NDArray[np.float64]:
        """Return the log posteriors (windows, classes) of a sentence's windows, in order.

        Parameters
        ----------
        wave : ndarray of float32, (samples,)
            At the classifier's rate.
        shift : int, optional
            Samples between windows; by default the classifier's.

        Raises
        ------
        UserError
            For a wave shorter than a window, or with values that are not finite.
        """
        parts = [torch.log_softmax(self.logits(part).double(), dim=1) for part in self._windows(wave, shift)]
        return torch.cat(parts).cpu().numpy()

    def decide(self, wave: Wave) -> tuple[int, float]:
        """Return the class of a sentence, and the sum of its log posteriors over the windows.

        As in SincNet's code: log posteriors are added up over windows, then the largest is taken.

        Raises
        ------
        UserError
            See `posteriors`.
        """
        total = self.posteriors(wave).sum(axis=0)
        best = int(total.argmax())
        return best, float(total[best])

    @torch.no_grad()
    def dvector_of(self, wave: Wave) -> NDArray[np.float32]:
        """Return the d-vector (d,) of a sentence.

        The mean of the windows' d-vectors, each of length 1, over the windows whose energy is above a tenth of the mean
        energy; the mean is not normalised again.

        Raises
        ------
        UserError
            See `posteriors`.
        """
        found, energies = [], []
        for part in self._windows(wave, None):
            vectors = self.dvectors(part)
            found.append(vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12))
            energies.append(part.square().sum(dim=1))
        energy = torch.cat(energies)
        mean: NDArray[np.float32] = torch.cat(found)[energy >= _LOUD * energy.mean()].mean(dim=0).float().cpu().numpy()
        return mean

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file that `load_classifier` reads.

        Raises
        ------
        UserError
            If the network is not a `SincNet`.
        """
        from safetensors.torch import save_file

        if not isinstance(self.network, SincNet):
            raise UserError(f"only a SincNet can be saved, not a {type(self.network).__name__}")
        facts = {"size": asdict(self.network.size), "classes": self.classes, "shift": self.shift}
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, str(path), {"format": _FORMAT, "facts": json.dumps(facts)})

    def _windows(self, wave: Wave, shift: int | None) -> Iterator[Tensor]:
        samples = np.ascontiguousarray(wave, dtype=np.float32)
        if samples.ndim != 1 or len(samples) < self.window:
            raise UserError(f"a wave of shape {samples.shape}: the classifier needs {self.window} samples at least")
        if not np.isfinite(samples).all():
            raise UserError("a wave holds samples that are not finite numbers")
        for part in torch.split(torch.from_numpy(samples).unfold(0, self.window, shift or self.shift), _AT_ONCE):
            yield part.to(self.device, self.dtype)


def load_classifier(path: str | Path, *, classes: Sequence[str] | None = None) -> SpeakerClassifier:
    """Read a classifier: one of our own files, or the public checkpoint of SincNet's authors.

    Parameters
    ----------
    path : str or Path
        A safetensors file by `SpeakerClassifier.save`, or a file of three state dicts (``CNN_model_par``,
        ``DNN1_model_par``, ``DNN2_model_par``), such as the one for TIMIT that comes with
        https://github.com/mravanelli/SincNet. It is read without running code from it.
    classes : sequence of str, optional
        Names for the public checkpoint, which has none; by default "0", "1" and so on.

    Returns
    -------
    SpeakerClassifier

    Raises
    ------
    UserError
        If there is no such file, or it is another; with the first key that is missing or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"speaker classifier: there is no file {path}")
    if path.suffix == ".safetensors":
        return _own(path)
    return _public(path, classes)


def _own(path: Path) -> SpeakerClassifier:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as held:
            about = held.metadata() or {}
            state = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"speaker classifier: {path} cannot be read ({error})") from error
    if about.get("format") != _FORMAT:
        raise UserError(f"speaker classifier: {path} is not a file of {_FORMAT!r}, but {about.get('format')!r}")
    facts = json.loads(about["facts"])
    size = facts["size"]
    size["convolutions"] = tuple(tuple(pair) for pair in size["convolutions"])
    network = SincNet(SincNetSize(**size | {"dense": tuple(size["dense"])}), len(facts["classes"]))
    _fill(network, state, path)
    return SpeakerClassifier(
        network, facts["classes"], network.size.sample_rate, network.size.window, int(facts["shift"])
    )


def _public(path: Path, classes: Sequence[str] | None) -> SpeakerClassifier:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"speaker classifier: {path} is no checkpoint ({said}); give classifier.safetensors of a run, "
            "or the file of SincNet's authors"
        ) from error
    parts = ("CNN_model_par", "DNN1_model_par", "DNN2_model_par")
    if not isinstance(held, dict) or any(not isinstance(held.get(part), dict) for part in parts):
        has = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise UserError(f"speaker classifier: {path} has not the state dicts {', '.join(parts)}; it has {has[:200]}")
    state = _renamed([held[part] for part in parts], path)
    count = len(state["last.weight"])
    if classes is not None and len(classes) != count:
        raise UserError(f"speaker classifier: {path} has {count} classes, but {len(classes)} names were given")
    network = SincNet(PUBLISHED, count)
    _fill(network, state, path)
    return SpeakerClassifier(network, classes or [str(number) for number in range(count)])


def _renamed(parts: Sequence[dict[str, Tensor]], path: Path) -> dict[str, Tensor]:
    """Give the public checkpoint's tensors our names; what its code makes but never uses is left out."""
    names = {"cnn.ln0": "norm_in", "cnn.conv.0": "sinc", "hidden.ln0": "norm_dense", "last.wx.0": "last"}
    names |= {f"cnn.conv.{n + 1}": f"convolutions.{n}" for n in range(len(PUBLISHED.convolutions))}
    names |= {f"cnn.ln.{n}": f"norms.{n}" for n in range(len(PUBLISHED.frames))}
    for n in range(len(PUBLISHED.dense)):
        names |= {f"hidden.wx.{n}": f"dense.{n}", f"hidden.bn.{n}": f"dense_norms.{n}"}
    found = {}
    for part, state in zip(("cnn", "hidden", "last"), parts, strict=True):
        for key, tensor in state.items():
            layer, _, what = f"{part}.{key}".rpartition(".")
            if layer not in names:
                continue
            if layer == "cnn.conv.0":
                what, tensor = _edges(what, tensor)
            found[f"{names[layer]}.{what}"] = tensor
    if "last.weight" not in found:
        raise UserError(f"speaker classifier: {path}: DNN2_model_par has no wx.0.weight")
    return found


def _edges(what: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Bring the edges of the bands to Hz; an older form of the public code kept them as shares of the sampling rate."""
    if what in ("filt_b1", "filt_band"):
        name = "low" if what == "filt_b1" else "band"
        return name, (tensor.double() * PUBLISHED.sample_rate).float().reshape(-1, 1)
    return {"low_hz_": "low", "band_hz_": "band"}.get(what, what), tensor


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise UserError(f"speaker classifier: {path} has no {name} (shape {tuple(tensor.shape)})")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"speaker classifier: {path}: {name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}: "
                "it is of a network of another size"
            )
    if left := sorted(set(state) - set(wanted)):
        raise UserError(f"speaker classifier: {path} holds {left[0]}, which the network has not")
    network.load_state_dict(state)
