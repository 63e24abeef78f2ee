"""Score a linear head on artists that it was not trained on: cross-validation and learning curve."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from genrekeras.datasets.groups import artist_groups, assign_folds
from genrekeras.evaluation import CrossValidation, MultiLabelReport, Report, compare
from genrekeras.evaluation.calibration import mean_probabilities
from genrekeras.evaluation.cross_validation import calibrate_folds
from genrekeras.training.linear_head import FeatureSplit, fit_linear_head, max_folds
from genrekeras.utils.progress import bar

_PARTS = 4  # parts into which the artists of the training folds are divided, for the learning curve


class OutOfFold(NamedTuple):
    """Out-of-fold predictions of all tracks of a split.

    Attributes:
        validation: scores, see `genrekeras.evaluation.CrossValidation`. The probabilities of a track are the mean over
            its clips.
        logits: `(n, max_clips, genres)`, see `genrekeras.training.linear_head.LinearHead.logits`.
    """

    validation: CrossValidation
    logits: np.ndarray


def cross_validate_head(split: FeatureSplit, input_coverage: str, seed: int = 0) -> OutOfFold:
    """Predict each track with a head that was not trained on its artist.

    In each fold, the penalty is chosen on the other folds, by a cross-validation of its own. The predictions of a fold
    are calibrated on the other folds, see `genrekeras.evaluation.cross_validate`.

    Args:
        split: the tracks.
        input_coverage: the part of each track that the features describe, such as "up to 30 clips of 3 s".
        seed: seed of the assignment to folds.

    Raises:
        ValueError: all tracks have the same artist.
    """
    folds = _assign(split, seed)
    seconds, parts = [], []
    for fold in bar(folds.max() + 1, "Cross-validation", "fold", iterable=range(folds.max() + 1)):
        start = time.process_time()
        head = fit_linear_head(split.select(np.flatnonzero(folds != fold)), seed)
        parts.append(head.logits(split.select(np.flatnonzero(folds == fold)).features))
        seconds.append(time.process_time() - start)
    logits = _join(split, folds, parts)
    uncalibrated = to_report(split, logits, input_coverage)
    return OutOfFold(calibrate_folds(uncalibrated, folds, np.array(seconds), logits), logits)


def learning_curve(split: FeatureSplit, all_artists: OutOfFold, seed: int = 0) -> list[dict[str, float]]:
    """Score heads that are trained on a quarter and on half of the artists of the training folds.

    Args:
        split: the tracks.
        all_artists: result of `cross_validate_head` for the split.
        seed: as in `cross_validate_head`.

    Returns:
        A row for each share of the artists, up to 1. The keys are `share`, `artists` (mean number over the folds),
        `tracks`, `score`, `low` and `high` (95 % interval, `None` with too few artists). The rows of shares below 1
        have the keys `gain`, `gain_low` and `gain_high` of the difference to all artists. Shares for which a fold has
        too few artists are left out.
    """
    reference, folds = all_artists.validation.uncalibrated, all_artists.validation.folds
    reports, sizes = {}, {}
    for quarters in (1, 2):
        parts, kept = [], []
        for fold in bar(
            folds.max() + 1, f"Learning curve, {quarters}/{_PARTS}", "fold", iterable=range(folds.max() + 1)
        ):
            train = split.select(np.flatnonzero(folds != fold))
            if max_folds(train) < _PARTS:
                break
            train = train.select(np.flatnonzero(assign_folds(train, _PARTS, seed) < quarters))
            kept.append(train)
            head = fit_linear_head(train, seed)
            parts.append(head.logits(split.select(np.flatnonzero(folds == fold)).features))
        else:
            logits = _join(split, folds, parts)
            reports[quarters / _PARTS] = to_report(split, logits, reference.input_coverage)
            sizes[quarters / _PARTS] = kept
    reports[1.0] = reference
    sizes[1.0] = [split.select(np.flatnonzero(folds != fold)) for fold in range(folds.max() + 1)]
    return [_point(share, report, sizes[share], reference) for share, report in reports.items()]


def describe_learning_curve(curve: list[dict[str, float]], score_name: str) -> str:
    """Return text that states whether music of more artists would probably increase the score.

    Args:
        curve: result of `learning_curve`.
        score_name: such as "accuracy".
    """
    half = next((row for row in curve if row["share"] == 0.5), None)
    if half is None:
        return "There are too few artists to estimate whether more music would help."
    gain = f"Twice the artists changed the {score_name} by {round(100 * half['gain']):+d} percentage points"
    if half["gain_low"] is None:
        return f"{gain}. There are too few artists for an interval of this difference."
    gain += f" [{round(100 * half['gain_low']):+d}, {round(100 * half['gain_high']):+d}]"
    if half["gain_low"] > 0:
        return f"{gain}, so music of more artists will probably increase it further."
    return f"{gain}. This may be due to chance, so more music may not help."


def _point(share, report, splits, reference):
    """Return the row of a share of the artists. `splits` are the training tracks of the folds."""
    low, high = report.score_interval or (None, None)
    row = {
        "share": share,
        "artists": round(float(np.mean([len(np.unique(split.groups)) for split in splits]))),
        "tracks": round(float(np.mean([len(split) for split in splits]))),
        "score": report.score,
        "low": low,
        "high": high,
    }
    if share == 1:
        return row
    difference = compare({"part": report, "all": reference}).loc["all"]
    bounds = [None if value != value else float(value) for value in difference[["difference_low", "difference_high"]]]
    return row | {"gain": float(difference["difference"]), "gain_low": bounds[0], "gain_high": bounds[1]}


def _assign(split, seed):
    """Return the fold of each track."""
    folds = max_folds(split)
    if folds < 2:
        raise ValueError(
            "All tracks have the same artist or album, or are in the same folder, so no track can be predicted by a "
            "model that was not trained on its artist. Add music of other artists, or correct the tags for artists."
        )
    return assign_folds(split, folds, seed)


def _join(split, folds, parts):
    """Return the logits of all tracks from the logits of the folds."""
    clips, genres = max(part.shape[1] for part in parts), len(split.genres)
    logits = np.full((len(split), clips, genres), np.nan)
    for fold, part in enumerate(parts):
        logits[folds == fold, : part.shape[1]] = part
    return logits


def to_report(
    split: FeatureSplit, logits: np.ndarray, input_coverage: str, name: str = "cross-validation"
) -> Report | MultiLabelReport:
    """Return the report of the mean probabilities of the clips of tracks.

    Args:
        split: the tracks.
        logits: `(n, max_clips, genres)`, see `genrekeras.training.linear_head.LinearHead.logits`.
        input_coverage: as in `cross_validate_head`.
        name: name of the split in the report.
    """
    kind = MultiLabelReport if split.multi_label else Report
    return kind(
        genres=split.genres,
        split=name,
        protocol=split.protocol,
        track_ids=split.track_ids,
        labels=split.labels,
        probabilities=mean_probabilities(logits, split.multi_label),
        input_coverage=input_coverage,
        groups=artist_groups(split.tracks),
    )
