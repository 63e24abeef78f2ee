"""Evaluate, calibrate and compare models on labelled music."""

from genrekeras.evaluation.calibration import Calibration, calibrate
from genrekeras.evaluation.comparison import compare
from genrekeras.evaluation.cross_validation import CrossValidation, cross_validate
from genrekeras.evaluation.intervals import wilson_interval
from genrekeras.evaluation.multi_label import MultiLabelReport, report_from_dict
from genrekeras.evaluation.report import Report
from genrekeras.evaluation.scoring import evaluate, misclassified

__all__ = [
    "Calibration",
    "CrossValidation",
    "MultiLabelReport",
    "Report",
    "calibrate",
    "compare",
    "cross_validate",
    "evaluate",
    "misclassified",
    "report_from_dict",
    "wilson_interval",
]
