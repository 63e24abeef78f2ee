"""Evaluate, calibrate and compare models on labelled music."""

from genrekeras.evaluation.calibration import Calibration, calibrate
from genrekeras.evaluation.comparison import compare
from genrekeras.evaluation.intervals import wilson_interval
from genrekeras.evaluation.report import Report
from genrekeras.evaluation.scoring import evaluate, misclassified

__all__ = ["Calibration", "Report", "calibrate", "compare", "evaluate", "misclassified", "wilson_interval"]
