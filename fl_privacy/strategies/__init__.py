"""Flower server side: a strategy for gradients, and wrappers that record, repeat and resume any strategy's run."""

from fl_privacy.strategies.capture import CaptureUpdates
from fl_privacy.strategies.fedsgd import FedSGD
from fl_privacy.strategies.reproducible import Reproducible

__all__ = ["CaptureUpdates", "FedSGD", "Reproducible"]
