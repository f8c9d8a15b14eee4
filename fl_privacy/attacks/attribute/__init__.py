"""Attribute inference on shared updates."""

from fl_privacy.attacks.attribute.cnn import PublishedCNN
from fl_privacy.attacks.attribute.input_reconstruction import InputReconstruction
from fl_privacy.attacks.attribute.raw_linear import RawLinear

__all__ = ["InputReconstruction", "PublishedCNN", "RawLinear"]
