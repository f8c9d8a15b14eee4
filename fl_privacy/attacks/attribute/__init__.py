"""Attribute inference on shared updates."""

from fl_privacy.attacks.attribute.affine_hull import AffineHull
from fl_privacy.attacks.attribute.batch_covariance import BatchCovariance
from fl_privacy.attacks.attribute.batch_inputs import BatchInputs
from fl_privacy.attacks.attribute.class_weighted import ClassWeighted
from fl_privacy.attacks.attribute.cnn import PublishedCNN
from fl_privacy.attacks.attribute.gaussian import GaussianLikelihoodRatio
from fl_privacy.attacks.attribute.input_covariance import InputCovariance
from fl_privacy.attacks.attribute.input_reconstruction import InputReconstruction
from fl_privacy.attacks.attribute.layer_statistics import LayerStatistics
from fl_privacy.attacks.attribute.principal_inputs import PrincipalInputs
from fl_privacy.attacks.attribute.raw_linear import RawLinear

__all__ = [
    "AffineHull",
    "BatchCovariance",
    "BatchInputs",
    "ClassWeighted",
    "GaussianLikelihoodRatio",
    "InputCovariance",
    "InputReconstruction",
    "LayerStatistics",
    "PrincipalInputs",
    "PublishedCNN",
    "RawLinear",
]
