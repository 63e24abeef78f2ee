"""Write an HTML report of a training run, from the files in the folder of the run."""

import csv
import dataclasses
import io
import json
import os
from typing import Any, NamedTuple

import jinja2
import matplotlib
from genrekeras.evaluation import MultiLabelReport, Report, report_from_dict
from genrekeras.models.thresholds import Thresholds
from genrekeras.reports.model_card import MALFORMED, artists_of_splits, describe_limits, templates
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import printable
from genrekeras.visualization.metrics import MAX_GENRES, learning_curves, reliability

SPLITS = ("validation", "test")
# Undefined values are allowed, because the files of an interrupted run lack some values.
_TEMPLATES = templates(printable, autoescape=True, undefined=jinja2.ChainableUndefined)
# Color of the figures -> CSS color of the page. The CSS colors differ between the light and the dark color scheme.
_CSS_COLORS = {"#000000": "currentColor", "#1f5fa8": "var(--accent)", "#8a8f98": "var(--muted)"}


class Run(NamedTuple):
    """The results of a training run.

    Attributes:
        name: name of the folder.
        config: the content of `config.json`.
        history: the columns of `history.csv`. Empty if the model was not trained in epochs.
        reports: name -> report. Reports that do not exist are omitted. "validation" and "test" evaluate the first clip
            of each track. "validation_tracks" and "test_tracks" evaluate several clips of each track, after
            calibration. "validation_tracks_uncalibrated" and "test_tracks_uncalibrated" do so before calibration.
        card: the card of the model. Empty if there is none.
        misclassified: the rows of `misclassified.csv`. The most confident errors come first.
    """

    name: str
    config: dict[str, Any]
    history: dict[str, list[float]]
    reports: dict[str, Report | MultiLabelReport]
    card: dict[str, Any]
    misclassified: list[dict[str, str]]


def load_run(folder: StrPath) -> Run:
    """Read the folder of a finished or interrupted run. Missing files are skipped.

    Args:
        folder: path of the folder.

    Raises:
        ValueError: the folder contains no `config.json`, or a file is damaged.
        OSError: a file cannot be read.
    """
    folder = os.fspath(folder)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"{folder} is not the folder of a run: it contains no config.json.")
    reports = {}
    for kind in ("_tracks", "", "_tracks_uncalibrated"):
        for split in SPLITS:
            report = _read(folder, f"{split}{kind}.json", lambda file: report_from_dict(json.load(file)))
            if report is not None:
                reports[f"{split}{kind}"] = report
    return Run(
        os.path.basename(os.path.abspath(folder)),
        _read(folder, "config.json", _read_dict),
        _read(folder, "history.csv", _read_columns) or {},
        reports,
        _read(folder, "card.json", _read_dict) or {},
        _read(folder, "misclassified.csv", lambda file: list(csv.DictReader(file))) or [],
    )


def html(run: Run, path: StrPath) -> None:
    """Write a self-contained HTML report of a run.

    The report contains scores, data, learning curves, errors, calibration, versions and settings.

    Args:
        run: the result of `load_run`.
        path: path of the file, such as "report.html".

    Raises:
        ValueError: a file of the run does not have the form that experiments write.
        OSError: the report cannot be written.
    """
    try:
        text = _render(run)
    except MALFORMED as error:
        raise ValueError(
            f"The files of the run {run.name} do not have the form that experiments write: {type(error).__name__}: "
            f"{error}"
        ) from error
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _render(run):
    """Return the HTML page of a run."""
    names = [f"{split}{kind}" for split in ("test", "validation") for kind in ("_tracks", "")]
    main = next((run.reports[name] for name in names if name in run.reports), None)
    curves = [key for key in ("loss", "accuracy", "learning_rate") if "loss" in run.history and key in run.history]
    calibration = {}
    split = next((name for name in ("test", "validation") if f"{name}_tracks" in run.reports), "")
    if f"{split}_tracks_uncalibrated" in run.reports:
        calibration = {"before": run.reports[f"{split}_tracks_uncalibrated"], "after": run.reports[f"{split}_tracks"]}
    return _TEMPLATES.get_template("run.html.jinja").render(
        run=run,
        main=main,
        rows=list(zip(main.genres, main.genre_counts.tolist(), main.table.tolist(), strict=True)) if main else [],
        max_genres=MAX_GENRES,
        curves=[_svg(learning_curves(run.history, keys=[key])) for key in curves],
        calibration=[_svg(reliability({name: report})) for name, report in calibration.items()],
        artists=artists_of_splits(run.config.get("data", {})),
        limits=_limits(run.card.get("calibration") or {}),
        command=" ".join(run.config.get("command", [])),
    )


def _read(folder, name, read):
    """Open a file of a run and return `read(file)`. If the file does not exist, return `None`.

    Raises:
        ValueError: `read` fails. The message contains the name of the file.
    """
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            return read(file)
        except (ValueError, TypeError, OverflowError, RecursionError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def _read_dict(file):
    content = json.load(file)
    if not isinstance(content, dict):
        raise ValueError(f"the file must contain a JSON object, not {type(content).__name__}")
    return content


def _read_columns(file):
    """Return a dict of the columns of `history.csv` as lists of numbers. Empty columns are omitted."""
    rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name != "epoch"]
    columns = {name: [float(row[name]) for row in rows if row[name]] for name in names}
    return {name: values for name, values in columns.items() if values}


def _limits(calibration):
    """Return text that states when a prediction has low confidence, from the calibration in a card."""
    names = {field.name for field in dataclasses.fields(Thresholds)}
    return describe_limits(Thresholds(**{name: value for name, value in calibration.items() if name in names}))


def _svg(figure):
    """Return a figure as SVG text in the colors of the page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    text = text.getvalue()
    for color, name in _CSS_COLORS.items():
        text = text.replace(color, name)
    return text[text.index("<svg") :]
