"""Evaluation of models on labelled music: scores, calibration and comparison."""

from genrekeras.evaluation.calibration import Calibration, calibrate
from genrekeras.evaluation.comparison import compare
from genrekeras.evaluation.intervals import wilson_interval
from genrekeras.evaluation.report import Report
from genrekeras.evaluation.scoring import evaluate, misclassified

__all__ = ["Calibration", "Report", "calibrate", "compare", "evaluate", "misclassified", "wilson_interval"]
