"""Flower server side: a strategy for gradients, and one that records what any strategy's clients send."""

from fl_privacy.strategies.capture import CaptureUpdates
from fl_privacy.strategies.fedsgd import FedSGD

__all__ = ["CaptureUpdates", "FedSGD"]
