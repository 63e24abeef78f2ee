"""Score the model of a run, and write the reports, figures, model card and HTML page of the run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import genrekeras as gk
from genrekeras.datasets.groups import concentration_of_tables
from genrekeras.reports import html, load_run, model_card
from genrekeras.runs import options
from genrekeras.utils.io import atomic_write

if TYPE_CHECKING:  # This module imports `scoring`.
    from genrekeras.runs.runner import Run
    from genrekeras.training.linear_head import FeatureSplit


def evaluate(run: Run, **card: Any) -> None:
    """Calibrate and score the saved model. See `runner.Run.evaluate`.

    If the model has a card, nothing is done, because the model was scored before the run was interrupted. Training
    removes the card of a model, and the last step of this function saves the model with a new card.
    """
    model = gk.models.load_model(run.model_file)
    if model.card:
        return
    splits = {split.name: split for split in run.splits_to_score()}
    reports = _score_test_tracks(model, splits)
    if "validation" in splits:
        calibration = gk.evaluation.calibrate(model, splits["validation"], **options.TRACK_CROPS)
        uncalibrated = {"validation_tracks": calibration.before, **reports}
        reports = {f"{name}_uncalibrated": report for name, report in uncalibrated.items()}
        reports["validation_tracks"] = calibration.after
        reports |= _score_test_tracks(model, splits)
    reports |= {name: gk.evaluation.evaluate(model, split) for name, split in splits.items()}
    finish(run, model, reports, **card)
    if run.flags.wandb:
        run.wandb.finish()
        print(f"The W&B run is in {run.path('wandb')}. If it was offline, upload it with `wandb sync`.")


def finish(run: Run, model: gk.GenreClassifier, reports: Mapping[str, gk.evaluation.Report], **card: Any) -> None:
    """Add scores and training to the card of a model, and write model card, reports and the model.

    Args:
        run: the run.
        model: the trained model.
        reports: name -> report, see `runner.Run.save_reports`.
        card: further entries of the model card.
    """
    model.card = {**_card(run, reports), **card, **model.card}
    run.save_json("card.json", dict(model.card))
    model_card(model, run.path("model_card.md"))
    save_reports(run, reports)
    with atomic_write(run.model_file) as temporary:
        model.save(temporary)


def set_cross_validated_data(
    run: Run, name: str, split: gk.datasets.SpectrogramSplit | FeatureSplit, sample_rate: int
) -> None:
    """Set the data of a run to the tracks of a cross-validation by artist, which belong to no other split.

    Args:
        run: the run. Its config gets the entry `data`, without the reasons why tracks are broken.
        name: name of the data.
        split: the tracks.
        sample_rate: sample rate of the model, in Hz.
    """
    none = split.select([])
    run.data = gk.datasets.Dataset(name, "artist_folds", none, none, split, split.genres, sample_rate, {}, {}, {})
    concentration = concentration_of_tables({"all": split.tracks}).reset_index()
    run.config["data"] = {
        "name": name,
        "protocol": "artist_folds",
        "concentration": json.loads(concentration.to_json(orient="records")),
    }


def save_reports(run: Run, reports: Mapping[str, gk.evaluation.Report]) -> None:
    """Print reports, and write their files. See `runner.Run.save_reports`."""
    print()
    if not reports:
        print("Nothing was scored, because the validation and test splits are empty.")
    for name, report in reports.items():
        if "uncalibrated" in name:
            continue
        if run.flags.wandb and name == f"{report.split}_tracks":
            run.wandb.log_report(report)
        print(report)
    write_reports(run, reports)


def write_reports(run: Run, reports: Mapping[str, gk.evaluation.Report]) -> None:
    """Write reports as JSON files, figures and one HTML page, and write the wrong predictions."""
    for name, report in reports.items():
        report.to_json(run.path(f"{name}.json"))
        if "uncalibrated" not in name:
            report.plot(run.path(f"confusion_{name}.png"))
    run.save_json("metrics.json", {name: report.figures() for name, report in reports.items()})
    _save_misclassified(run, reports)
    run.save_config()
    html(load_run(run.folder), run.path("report.html"))


def _score_test_tracks(model, splits):
    """Return a dict with the report of the test split, with several crops of each track. Empty without a test split."""
    if "test" not in splits:
        return {}
    return {"test_tracks": gk.evaluation.evaluate(model, splits["test"], **options.TRACK_CROPS)}


def _card(run, reports):
    """Return the model card of a run. It contains no paths of this machine, because it is published with the model."""
    hidden = ("data_dir", "spectrograms", "groups", "vggish", "output", "resume", "save_every", "processes", "wandb")
    flags = {key: value for key, value in vars(run.flags).items() if value is not None and key not in hidden}
    return {
        "data": {key: value for key, value in run.config["data"].items() if key != "broken"},
        "training": {
            "script": os.path.basename(sys.argv[0]),
            "flags": flags,
            **training_settings(run.config),
            "seconds": run.config["seconds"],
            "backend": run.config["backend"],
            "versions": run.config["versions"],
        },
        "scores": [report.figures() for name, report in reports.items() if "uncalibrated" not in name],
    }


def training_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict with the epochs, the batch size and the optimizer in the config of a run."""
    optimizer = config["optimizer"]
    # Mixed precision wraps the optimizer. Use the inner one.
    optimizer = optimizer.get("inner_optimizer", {}).get("config", optimizer)
    return {
        "epochs": config["epochs"],
        "epochs_fixed": config.get("epochs_fixed", False),
        "batch_size": config["batch_size"],
        "optimizer": optimizer["name"],
        "learning_rate": float(f"{optimizer['learning_rate']:.6g}"),
    }


def _save_misclassified(run, reports):
    """Write the wrong predictions on the test split. Without a test split, use the validation split."""
    for split in run.splits_to_score()[-1:]:
        report = reports[f"{split.name}_tracks" if f"{split.name}_tracks" in reports else split.name]
        table = gk.evaluation.misclassified(report, split)
        with atomic_write(run.path("misclassified.csv")) as temporary:
            table.to_csv(temporary, index=False, errors="surrogateescape")
