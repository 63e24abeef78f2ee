"""Comparison of models on the same clips: differences of accuracy with their intervals."""

import numpy as np
import pandas as pd
from genrekeras.utils.progress import printable


def compare(reports, draws=10_000, seed=0):
    """Compare the scores of several models on the same clips, and their accuracies with that of the first.

    The interval of a difference is that of a paired bootstrap over clips: the same clips are drawn for both models, so
    that the difficulty of a clip cancels out. It accounts for the choice of the clips, but not for the random seed of
    the training.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        reports: dict, name -> `genrekeras.evaluation.Report`, two or more. All others are compared with the first.
        draws: int > 0, number of bootstrap samples.
        seed: int, seed of the bootstrap.

    Returns:
        `pandas.DataFrame` with one row per report, indexed by name: `clips`, `input_coverage`, `accuracy`, its 95 %
        interval `low` and `high`, `macro_f1`, `log_loss`, `calibration_error`, and `difference` (accuracy minus that of
        the first report) with its 95 % interval `difference_low`, `difference_high`. If this interval contains 0, the
        difference may be due to chance.

    Raises:
        ValueError: there are fewer than two reports, or their clips, labels or genres differ.
    """
    if len(reports) < 2:
        raise ValueError(f"`reports` must contain two or more reports. Received: reports={list(reports)}")
    rng = np.random.default_rng(seed)
    (reference_name, reference), *_ = reports.items()
    rows = {}
    for name, report in reports.items():
        order = _matching_order(reference_name, reference, name, report)
        low, high = report.accuracy_interval
        rows[name] = {
            "clips": len(report.labels),
            "input_coverage": printable(report.input_coverage),
            "accuracy": report.accuracy,
            "low": low,
            "high": high,
            "macro_f1": report.macro_f1,
            "log_loss": report.log_loss,
            "calibration_error": report.calibration_error,
        }
        if name == reference_name:
            continue
        is_correct = (report.predictions == report.labels)[order].astype(int)
        differences = is_correct - (reference.predictions == reference.labels)
        # A bootstrap sample is a multinomial draw of the numbers of clips with each of the three differences.
        shares = [(differences == value).mean() for value in (-1, 0, 1)]
        samples = rng.multinomial(len(differences), shares, size=draws) @ [-1, 0, 1] / len(differences)
        low, high = np.quantile(samples, [0.025, 0.975])
        rows[name] |= {"difference": differences.mean(), "difference_low": low, "difference_high": high}
    # dtype object, because strings of pandas cannot contain a name that is not UTF-8.
    return pd.DataFrame(list(rows.values()), pd.Index(list(rows), dtype=object))


def _matching_order(reference_name, reference, name, report):
    """Return the order in which the clips of a report match those of the reference."""
    if report.genres != reference.genres:
        raise ValueError(f"The genres of {name} differ from those of {reference_name}.")
    rows, reference_rows = (np.argsort(scores.track_ids, kind="stable") for scores in (report, reference))
    is_same = np.array_equal(report.track_ids[rows], reference.track_ids[reference_rows])
    if not is_same or (report.labels[rows] != reference.labels[reference_rows]).any():
        raise ValueError(
            f"The clips of {name} differ from those of {reference_name}, and only scores on the same clips can be "
            f"compared. Received: {report} / {reference}"
        )
    order = np.empty(len(rows), int)
    order[reference_rows] = rows
    return order
