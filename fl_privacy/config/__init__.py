"""The simulation file: TOML read into frozen models that refuse what they do not know."""

from __future__ import annotations

from fl_privacy.config._sweep import SweepSettings, refuse_sweep
from fl_privacy.config.federated_ser import (
    AttackChoice,
    FederatedCorpus,
    FederatedSerFile,
    FederationSettings,
    Task,
)
from fl_privacy.config.loading import KINDS, SimulationFile, load, load_any, parse_setting, parse_value, presets
from fl_privacy.config.sections import ConfigError, CorpusChoice
from fl_privacy.config.speaker_inversion import SpeakerInversionFile
from fl_privacy.config.speaker_membership import SpeakerMembershipFile
from fl_privacy.config.ssl_membership import SslMembershipFile

__all__ = [
    "KINDS",
    "AttackChoice",
    "ConfigError",
    "CorpusChoice",
    "FederatedCorpus",
    "FederatedSerFile",
    "FederationSettings",
    "SimulationFile",
    "SpeakerInversionFile",
    "SpeakerMembershipFile",
    "SslMembershipFile",
    "SweepSettings",
    "Task",
    "load",
    "load_any",
    "parse_setting",
    "parse_value",
    "presets",
    "refuse_sweep",
]
