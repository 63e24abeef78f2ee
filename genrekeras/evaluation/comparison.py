"""Runs beside each other: who is better, and whether that is more than chance."""

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
        draws: int > 0, of the bootstrap.
        seed: int, of the bootstrap.

    Returns:
        `pandas.DataFrame`, a row a report: `clips`, `heard`, `accuracy`, its 95 % interval `low` and `high`,
        `macro_f1`, `log_loss`, `calibration_error`, and `difference` (of accuracies, from the first) with its 95 %
        interval `difference_low`, `difference_high`. If it contains 0, the difference may be chance.

    Raises:
        ValueError: fewer than two reports, or reports of other clips, labels or genres than the first's.
    """
    if len(reports) < 2:
        raise ValueError(f"`reports` must be two or more. Received: reports={list(reports)}")
    rng = np.random.default_rng(seed)
    (name, first), *_ = reports.items()
    rows = {}
    for other, report in reports.items():
        order = _as_in(name, first, other, report)
        low, high = report.accuracy_interval
        rows[other] = {
            "clips": len(report.labels),
            "input_coverage": printable(report.input_coverage),
            "accuracy": report.accuracy,
            "low": low,
            "high": high,
            "macro_f1": report.macro_f1,
            "log_loss": report.log_loss,
            "calibration_error": report.calibration_error,
        }
        if other == name:
            continue
        better = (report.predictions == report.labels)[order].astype(int) - (first.predictions == first.labels)
        # A sample of n clips with replacement holds so many on which the first, neither or the other alone is right.
        shares = [(better == which).mean() for which in (-1, 0, 1)]
        drawn = rng.multinomial(len(better), shares, size=draws) @ [-1, 0, 1] / len(better)
        interval = np.quantile(drawn, [0.025, 0.975])
        rows[other] |= dict(
            zip(("difference", "difference_low", "difference_high"), (better.mean(), *interval), strict=True)
        )
    # Of type object: pandas' strings cannot hold a name that is not UTF-8.
    return pd.DataFrame(list(rows.values()), pd.Index(list(rows), dtype=object))


def _as_in(name, first, other, report):
    """The order in which the clips of a report are those of the first."""
    if report.genres != first.genres:
        raise ValueError(f"{other} has other genres than {name}.")
    ours, theirs = np.argsort(first.track_ids, kind="stable"), np.argsort(report.track_ids, kind="stable")
    same = len(ours) == len(theirs) and (first.track_ids[ours] == report.track_ids[theirs]).all()
    if not same or (first.labels[ours] != report.labels[theirs]).any():
        raise ValueError(
            f"{other} was scored on other clips than {name}, and only the same ones can be compared: {report} / {first}"
        )
    order = np.empty(len(ours), int)
    order[ours] = theirs
    return order
