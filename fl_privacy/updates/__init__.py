"""What the attacker sees of a federation: the update record, its store on disk, and the labels beside it."""

from fl_privacy.updates.disaggregate import disaggregate
from fl_privacy.updates.labels import Labels, LabelsError
from fl_privacy.updates.layers import Layer, describe_layers, find_layers, resolve_layers
from fl_privacy.updates.record import ThreatModel, Update, observation
from fl_privacy.updates.store import SentMessage, StoreError, UpdateStore

__all__ = [
    "Labels",
    "LabelsError",
    "Layer",
    "SentMessage",
    "StoreError",
    "ThreatModel",
    "Update",
    "UpdateStore",
    "describe_layers",
    "disaggregate",
    "find_layers",
    "observation",
    "resolve_layers",
]
