"""Run an experiment once for each fold of a cross-validation by artist."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from genrekeras.evaluation import Report
from genrekeras.runs import options

if TYPE_CHECKING:  # This module imports `folds`.
    from genrekeras.runs.runner import Run

FOLDS = 5
_SCORES = ("test_tracks", "test")  # names of reports, in the order of preference


def run_folds(main: Callable[[Run], None], run: Run) -> None:
    """Run an experiment for each fold, and write the scores of all tracks to the folder of `run`.

    Each fold is a run with its own folder, `fold-0` to `fold-4`. The test split of the run contains the tracks of the
    fold, see `genrekeras.datasets.Dataset.fold`. Finished folds are skipped, and an interrupted fold is resumed.

    Args:
        main: the experiment.
        run: the run of the complete experiment.
    """
    reports = []
    for fold in range(FOLDS):
        folder = run.path(f"fold-{fold}")
        if not _is_finished(folder):
            os.makedirs(folder, exist_ok=True)
            resume = folder if os.path.exists(os.path.join(folder, options.CONFIG)) else None
            flags = argparse.Namespace(**{**vars(run.flags), "fold": fold, "output": folder, "resume": resume})
            print(f"\nFold {fold + 1} of {FOLDS}")
            _run_fold(main, type(run)(flags, folder, run.clip_seconds))
        reports.append(_read_report(folder))
    report, data = pool(reports), options.load_data(run.flags)
    tracks = data.all.select(np.searchsorted(data.all.track_ids, report.track_ids)).join([], "test")
    run.data = dataclasses.replace(data, protocol="artist_folds", validation=tracks.select([]), test=tracks)
    run.save_reports({"test_tracks": report})


def pool(reports: Sequence[Report]) -> Report:
    """Return the report of the tracks of several reports, such as the test splits of all folds."""
    groups = [report.groups for report in reports if report.groups is not None]
    return dataclasses.replace(
        reports[0],
        split="cross-validation",
        track_ids=np.concatenate([report.track_ids for report in reports]),
        labels=np.concatenate([report.labels for report in reports]),
        probabilities=np.concatenate([report.probabilities for report in reports]),
        groups=np.concatenate(groups) if len(groups) == len(reports) else None,
    )


def _run_fold(main, run):
    try:
        run.load_data()
        main(run)
    finally:
        run.save_config()
    run.finish()


def _is_finished(folder):
    """Return whether the run in a folder is finished."""
    try:
        with open(os.path.join(folder, options.CONFIG), encoding="utf-8") as file:
            return bool(json.load(file).get("finished"))
    except FileNotFoundError:
        return False


def _read_report(folder):
    """Return the report of the test split of a fold."""
    path = next(path for name in _SCORES if os.path.exists(path := os.path.join(folder, f"{name}.json")))
    with open(path, encoding="utf-8") as file:
        return Report.from_dict(json.load(file))
