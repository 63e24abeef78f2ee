"""Compare models on the same clips by the differences of their accuracies, with confidence intervals."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from genrekeras.evaluation.intervals import artist_interval, mean, sums_by_artist
from genrekeras.evaluation.report import Report
from genrekeras.utils.progress import printable


def compare(reports: Mapping[str, Report], draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Compare the scores of several models on the same clips.

    The accuracy of each model is compared with the accuracy of the first model, on the same clips, so the difficulty of
    a clip cancels out. The interval of the difference takes artists as independent of each other (see
    `genrekeras.evaluation.intervals.artist_interval`). If the first report has no artists, it is computed by a
    bootstrap over clips, and is too narrow if clips share artists. The interval accounts for the choice of the clips,
    but not for the random seed of the training.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        reports: name of a model -> report, at least two.
        draws: `> 0`, number of bootstrap samples of clips.
        seed: seed of the bootstrap.

    Returns:
        A row for each report, indexed by name. The columns are `clips`, `input_coverage`, `accuracy`, the 95 % interval
        of the accuracy (`low`, `high`), `macro_f1`, `log_loss`, `calibration_error`, the `difference` (accuracy minus
        accuracy of the first report), and the 95 % interval of the difference (`difference_low`, `difference_high`). If
        the latter interval contains 0, the difference may be due to chance.

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
        low, high = report.accuracy_interval or (np.nan, np.nan)
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
        if reference.groups is not None:
            values = np.stack([differences, np.ones(len(differences))], axis=1)
            interval = artist_interval(mean, *sums_by_artist(reference.groups, values), "identity", seed)
            low, high = interval or (np.nan, np.nan)
        else:
            # In a bootstrap sample, the numbers of clips with the differences -1, 0 and 1 are multinomial.
            frequencies = [(differences == value).mean() for value in (-1, 0, 1)]
            samples = rng.multinomial(len(differences), frequencies, size=draws) @ [-1, 0, 1] / len(differences)
            low, high = np.quantile(samples, [0.025, 0.975])
        rows[name] |= {"difference": differences.mean(), "difference_low": low, "difference_high": high}
    # The index has the dtype object, because strings of pandas cannot contain a name that is not UTF-8.
    return pd.DataFrame(list(rows.values()), pd.Index(list(rows), dtype=object))


def _matching_order(reference_name, reference, name, report):
    """Return the indices that sort the clips of a report into the order of the reference."""
    if report.genres != reference.genres:
        raise ValueError(f"The genres of {name} differ from those of {reference_name}.")
    rows, reference_rows = (np.argsort(scores.track_ids, kind="stable") for scores in (report, reference))
    is_same = np.array_equal(report.track_ids[rows], reference.track_ids[reference_rows])
    if not is_same or (report.labels[rows] != reference.labels[reference_rows]).any():
        raise ValueError(
            f"The clips of {name} differ from those of {reference_name}, but only scores on the same clips can be "
            f"compared. Received: {report} and {reference}"
        )
    order = np.empty(len(rows), int)
    order[reference_rows] = rows
    return order
