"""A run's folder, read again, and the page that tells all of it."""

import csv
import io
import json
import os
from typing import NamedTuple

import jinja2
import matplotlib
from genrekeras.evaluation import Report
from genrekeras.reports.model_card import OTHER_FORM, templates
from genrekeras.utils.io import atomic_write
from genrekeras.utils.progress import printable
from genrekeras.visualization.metrics import learning_curves, reliability

SPLITS = ("validation", "test")
# Many values are undefined for a run that was killed early.
_TEMPLATES = templates(printable, autoescape=True, undefined=jinja2.ChainableUndefined)
# What pictures are drawn in, and what the page's own light and dark colors call it.
_COLORS = {"#000000": "currentColor", "#1f5fa8": "var(--accent)", "#8a8f98": "var(--muted)"}


class Run(NamedTuple):
    """What an experiment left in its folder.

    Attributes:
        name: str, of the folder.
        config: dict, of `config.json`.
        history: dict of lists, empty where nothing was trained by epochs.
        reports: dict, name -> `Report`: "validation" and "test" (the first clip of each track), "validation_tracks"
            and "test_tracks" (several clips of each, calibrated), "..._tracks_uncalibrated"; those that are there.
        card: dict, of the model; empty where there is none.
        misclassified: list of dict, of `misclassified.csv`, the most confident first.
    """

    name: str
    config: dict
    history: dict
    reports: dict
    card: dict
    misclassified: list


def load_run(folder):
    """Read the folder of a run, finished or killed; missing files are left out.

    Args:
        folder: str or path-like.

    Returns:
        `Run`.

    Raises:
        ValueError: it is not the folder of a run, or a file in it is damaged.
        OSError: it cannot be read.
    """
    folder = os.fspath(folder)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"{folder} is not the folder of a run: it has no config.json")
    reports = {}
    for kind in ("_tracks", "", "_tracks_uncalibrated"):
        for split in SPLITS:
            if (content := _read(folder, f"{split}{kind}.json", json.load)) is not None:
                reports[f"{split}{kind}"] = _named(
                    os.path.join(folder, f"{split}{kind}.json"), Report.from_dict, content
                )
    return Run(
        os.path.basename(os.path.abspath(folder)),
        _read(folder, "config.json", _dict),
        _read(folder, "history.csv", _columns) or {},
        reports,
        _read(folder, "card.json", _dict) or {},
        _read(folder, "misclassified.csv", lambda file: list(csv.DictReader(file))) or [],
    )


def html(run, path):
    """Write a self-contained HTML report of a run: data, curves, errors, calibration, versions.

    Args:
        run: `Run`, from `load_run`.
        path: str or path-like, such as "reports.html".

    Raises:
        ValueError: a file of the run is not of the form that experiments write.
        OSError: it cannot be written.
    """
    try:
        text = _rendered(run)
    except OTHER_FORM as error:
        raise ValueError(
            f"The files of the run {run.name} are not of the form that experiments write: {type(error).__name__}: "
            f"{error}"
        ) from error
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _rendered(run):
    best = [f"{split}{kind}" for split in ("test", "validation") for kind in ("_tracks", "")]
    shown = next((run.reports[name] for name in best if name in run.reports), None)
    curves = [key for key in ("loss", "accuracy", "learning_rate") if "loss" in run.history and key in run.history]
    calibration = {}
    if shown and f"{shown.split}_tracks_uncalibrated" in run.reports:
        calibration = {"before": run.reports[f"{shown.split}_tracks_uncalibrated"], "after": shown}
    return _TEMPLATES.get_template("run.html.jinja").render(
        run=run,
        shown=shown,
        rows=list(zip(shown.genres, shown.confusion_matrix.tolist(), strict=True)) if shown else [],
        curves=[_svg(learning_curves(run.history, keys=[key])) for key in curves],
        calibration=[_svg(reliability({name: report})) for name, report in calibration.items()],
        command=" ".join(run.config.get("command", [])),
    )


def _read(folder, name, reader):
    """What a file holds, `None` if it is not there."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return _named(path, reader, file)


def _dict(file):
    content = json.load(file)
    if not isinstance(content, dict):
        raise ValueError(f"it must hold a JSON object, not {type(content).__name__}")
    return content


def _columns(file):
    """The columns of a table of epochs, as numbers; without those that are empty."""
    rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name != "epoch"]
    columns = {name: [float(row[name]) for row in rows if row[name]] for name in names}
    return {name: values for name, values in columns.items() if values}


def _named(path, reader, *arguments):
    try:
        return reader(*arguments)
    except (ValueError, TypeError, OverflowError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _svg(figure):
    """A figure as SVG text in the page's own colors."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    text = text.getvalue()
    for color, name in _COLORS.items():
        text = text.replace(color, name)
    return text[text.index("<svg") :]
