"""Model inversion: what does a speaker classifier think that its speakers sound like?

Standard and sliding inversion and the partial inversion of the d-vector layer after Pizzi et al. 2023 (arXiv
2301.03206), and what improves on them, served from one queue.
"""

from __future__ import annotations

from fl_privacy.attacks.inversion.checkpoint import Checkpoint
from fl_privacy.attacks.inversion.dvector import Prior, invert_dvector, map_dvector
from fl_privacy.attacks.inversion.gradients import Gradients, Slopes, WhiteBox
from fl_privacy.attacks.inversion.initialisations import PUBLISHED_STEP, STARTS, start_of
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reconstruction, Window
from fl_privacy.attacks.inversion.objectives import OBJECTIVES
from fl_privacy.attacks.inversion.robust import ShiftRobust
from fl_privacy.attacks.inversion.sliding import ReadOuts, read_outs, restarts, slide, trimmed
from fl_privacy.attacks.inversion.source_filter import InvertedVoice, SourceFilter, invert_source_filter
from fl_privacy.attacks.inversion.standard import invert, make_jobs
from fl_privacy.attacks.inversion.steps import STEPS

__all__ = [
    "OBJECTIVES",
    "PUBLISHED_STEP",
    "STARTS",
    "STEPS",
    "Checkpoint",
    "Gradients",
    "Inversion",
    "InvertedVoice",
    "Job",
    "Prior",
    "ReadOuts",
    "Reconstruction",
    "ShiftRobust",
    "Slopes",
    "SourceFilter",
    "WhiteBox",
    "Window",
    "invert",
    "invert_dvector",
    "invert_source_filter",
    "make_jobs",
    "map_dvector",
    "read_outs",
    "restarts",
    "slide",
    "start_of",
    "trimmed",
]
