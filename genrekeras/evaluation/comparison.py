"""Compare models on the same clips by the differences of their scores, with confidence intervals."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from genrekeras.evaluation.intervals import artist_interval, mean, sums_by_artist, weighted_intervals
from genrekeras.evaluation.multi_label import MultiLabelReport
from genrekeras.evaluation.ranking import mean_over_labels, ranking_scores
from genrekeras.evaluation.report import Report
from genrekeras.utils.progress import printable


def compare(reports: Mapping[str, Report | MultiLabelReport], draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Compare the scores of several models on the same clips.

    The score of each model is compared with the score of the first model, on the same clips, so the difficulty of a
    clip cancels out. The score is the accuracy of single-label models, and the mean average precision of multi-label
    models. The interval of the difference takes artists as independent of each other (see
    `genrekeras.evaluation.intervals.artist_interval` and `weighted_intervals`). If the first report has no artists, it
    takes clips as independent, and is too narrow if clips share artists. The interval accounts for the choice of the
    clips, but not for the random seed of the training.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        reports: name of a model -> report, at least two.
        draws: `> 0`, number of bootstrap samples of clips. It is used for single-label reports without artists.
        seed: seed of the bootstrap.

    Returns:
        A row for each report, indexed by name. The columns are `clips`, `input_coverage`, the score (`accuracy` or
        `mean_average_precision`), the 95 % interval of the score (`low`, `high`), `macro_f1`, `log_loss`,
        `calibration_error`, the `difference` (score minus score of the first report), and the 95 % interval of the
        difference (`difference_low`, `difference_high`). If the latter interval contains 0, the difference may be due
        to chance.

    Raises:
        ValueError: there are fewer than two reports, only some of them are multi-label, or their clips, labels or
            genres differ.
    """
    if len(reports) < 2:
        raise ValueError(f"`reports` must contain two or more reports. Received: reports={list(reports)}")
    (reference_name, reference), *_ = reports.items()
    rows = {}
    for name, report in reports.items():
        order = _matching_order(reference_name, reference, name, report)
        low, high = report.score_interval or (np.nan, np.nan)
        rows[name] = {
            "clips": len(report.labels),
            "input_coverage": printable(report.input_coverage),
            report.SCORE: report.score,
            "low": low,
            "high": high,
            "macro_f1": report.macro_f1,
            "log_loss": report.log_loss,
            "calibration_error": report.calibration_error,
        }
        if name == reference_name:
            continue
        if isinstance(report, MultiLabelReport):
            interval = _interval_of_map(report, reference, order)
        else:
            interval = _interval_of_accuracy(report, reference, order, draws, seed)
        low, high = interval or (np.nan, np.nan)
        difference = report.score - reference.score
        rows[name] |= {"difference": difference, "difference_low": low, "difference_high": high}
    # The index has the dtype object, because strings of pandas cannot contain a name that is not UTF-8.
    return pd.DataFrame(list(rows.values()), pd.Index(list(rows), dtype=object))


def _interval_of_accuracy(report, reference, order, draws, seed):
    """Return the interval of the difference of the accuracies; `None` with too few artists."""
    differences = report.is_correct[order].astype(int) - reference.is_correct
    if reference.groups is not None:
        values = np.stack([differences, np.ones(len(differences))], axis=1)
        return artist_interval(mean, *sums_by_artist(reference.groups, values), "identity", seed)
    # In a bootstrap sample, the numbers of clips with the differences -1, 0 and 1 are multinomial.
    frequencies = [(differences == value).mean() for value in (-1, 0, 1)]
    rng = np.random.default_rng(seed)
    samples = rng.multinomial(len(differences), frequencies, size=draws) @ [-1, 0, 1] / len(differences)
    return tuple(np.quantile(samples, [0.025, 0.975]))


def _interval_of_map(report, reference, order):
    """Return the interval of the difference of the mean average precisions; `None` with too few artists."""
    scored = reference.is_scored
    is_true = reference.labels[:, scored] == 1
    probabilities = [scores[:, scored] for scores in (report.probabilities[order], reference.probabilities)]

    def score(weights):
        own, other = (mean_over_labels(ranking_scores(is_true, scores, weights)[1]) for scores in probabilities)
        return (own - other)[:, None]

    groups = np.arange(len(order)) if reference.groups is None else reference.groups
    [interval] = weighted_intervals(score, groups, is_true.any(axis=1, keepdims=True), "identity")
    return interval


def _matching_order(reference_name, reference, name, report):
    """Return the indices that sort the clips of a report into the order of the reference."""
    if type(report) is not type(reference):
        raise ValueError(f"{name} and {reference_name} must both be single-label or both be multi-label reports.")
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
