"""Inputs of a dense layer, reconstructed from its update: pure functions of the weight's and the bias's arrays."""

from fl_privacy.attacks.reconstruction.batch import Batch, batch_inputs
from fl_privacy.attacks.reconstruction.hull import Hull, affine_hull
from fl_privacy.attacks.reconstruction.mean import weighted_mean
from fl_privacy.attacks.reconstruction.span import Span, find_span

__all__ = ["Batch", "Hull", "Span", "affine_hull", "batch_inputs", "find_span", "weighted_mean"]
