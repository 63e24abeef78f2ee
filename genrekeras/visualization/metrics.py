"""Figures of metrics: confusion matrix, reliability diagram, learning curves, and comparison of models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import printable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MAX_GENRES = 50  # largest number of genres in a figure of label pairs
_MAX_LARGE_CELLS = 16  # with more genres, the cells of such a figure are small
_TRAINING, _VALIDATION = "#8a8f98", "#1f5fa8"


def plain_text(text: str) -> str:
    """Escape text so that Matplotlib draws it literally.

    Names of genres, files and runs may contain any character. Matplotlib interprets text between two `$` as a formula,
    and fails on bytes that are not UTF-8. It omits names that begin with an underscore from legends.
    """
    text = printable(text).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # \u200b is a zero-width space.


def confusion_matrix(report: Any, path: StrPath | None = None) -> Figure:
    """Draw the confusion matrix of a report.

    Rows are true genres, and columns are predicted genres. Each cell shows the percentage of the clips of its row. The
    number of clips is below the percentage.

    Args:
        report: `genrekeras.evaluation.Report`.
        path: file to save the figure to (png, pdf or svg); `None` to save no file.

    Returns:
        The figure.
    """
    return save(_draw_counts(report, range(len(report.genres)), cell=0.62), path)


def label_pairs(report: Any, path: StrPath | None = None) -> Figure:
    """Draw the label pairs of a multi-label report.

    Rows are true genres, and columns are predicted genres. Each cell shows for which percentage of the clips of its row
    the genre of its column is predicted. If there are more than 50 genres, the 50 genres with the most clips are shown.

    Args:
        report: `genrekeras.evaluation.MultiLabelReport`.
        path: file to save the figure to (png, pdf or svg); `None` to save no file.

    Returns:
        The figure.
    """
    shown = np.sort(np.argsort(-report.genre_counts, kind="stable")[:MAX_GENRES])
    return save(_draw_counts(report, shown, cell=0.62 if len(shown) <= _MAX_LARGE_CELLS else 0.3), path)


def _draw_counts(report, shown, cell):
    """Draw the numbers of clips by true and predicted genre, as percentages of the clips of a true genre.

    Args:
        report: report with the property `table`.
        shown: indices of the genres to draw.
        cell: in inches, width of a cell. Small cells do not contain the number of clips.
    """
    counts, clips = report.table[np.ix_(shown, shown)], report.genre_counts[shown]
    names = [plain_text(report.genres[index]) for index in shown]
    percentages = np.where(clips > 0, 100 * counts.T / np.maximum(clips, 1), np.nan).T
    size, is_large = 2.6 + cell * len(names), cell > 0.5
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(percentages, cmap="Blues", vmin=0, vmax=100)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            percentage = percentages[row, column]
            style = {"ha": "center", "va": "center", "color": "white" if percentage > 55 else "black"}
            axes.text(column, row - 0.12 * is_large, f"{percentage:.0f}", fontsize=10 if is_large else 6.5, **style)
            if is_large:
                axes.text(column, row + 0.24, f"{count}", fontsize=6.5, alpha=0.75, **style)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{name}  ({n})" for name, n in zip(names, clips, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (clips)")
    bounds = " to ".join(f"{100 * bound:.1f}" for bound in report.score_interval or ())
    axes.set_title(
        plain_text(f"{report.split}, {report.protocol} protocol, {len(report.labels)} clips") + "\n"
        f"{report.SCORE_NAME} {100 * report.score:.1f} %" + (f"  (95 %: {bounds})" if bounds else ""),
        fontsize=10,
    )
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#d8dce2", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the true genre's clips", fraction=0.046).outline.set_visible(False)
    return figure


def learning_curves(
    history: Mapping[str, Sequence[float]],
    path: StrPath | None = None,
    title: str | None = None,
    keys: Sequence[str] = ("loss", "accuracy", "learning_rate"),
) -> Figure:
    """Draw loss, accuracy and learning rate of training and validation over the epochs.

    Args:
        history: name -> one value per epoch, such as `model.fit(...).history`.
        path: file to save the figure to; `None` to save no file.
        title: title of the figure; `None` for no title.
        keys: the keys of `history` to draw. Keys that `history` does not contain are skipped.

    Returns:
        The figure.

    Raises:
        ValueError: `history` contains no loss.
    """
    if not history.get("loss"):
        raise ValueError(f"`history` must contain the loss of at least one epoch. Received: keys={list(history)}")
    panels = [key for key in keys if key in history]
    figure = Figure(figsize=(4.0 * len(panels), 3.2), layout="constrained")
    for axes, key in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        percent = 100 if key == "accuracy" else 1
        epochs = np.arange(1, len(history[key]) + 1)
        if key == "learning_rate":
            axes.step(epochs, history[key], where="mid", color=_TRAINING)
            axes.set_yscale("log")
        else:
            axes.plot(epochs, percent * np.asarray(history[key]), color=_TRAINING, label="training", marker=".")
        if history.get(f"val_{key}"):
            validation = percent * np.asarray(history[f"val_{key}"])[: len(epochs)]
            every = len(epochs) // len(validation)  # equals `validation_freq` of `fit`
            validated = epochs[every - 1 :: every][: len(validation)]
            axes.plot(validated, validation, color=_VALIDATION, label="validation", marker=".")
            best = validation.argmin() if key == "loss" else validation.argmax()
            axes.annotate(
                f"{validation[best]:.3g}",
                (validated[best], validation[best]),
                textcoords="offset points",
                xytext=(0, -14 if key == "accuracy" and validation[best] > 90 else 7),
                ha="center",
                fontsize=8,
                color=_VALIDATION,
            )
            axes.legend(frameon=False, fontsize=8)
        axes.set_title({"accuracy": "accuracy in %", "learning_rate": "learning rate"}.get(key, key), fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)
        if key == "accuracy":
            axes.set_ylim(0, 105)
    if title:
        figure.suptitle(plain_text(title), fontsize=10)
    return save(figure, path)


def reliability(reports: Mapping[str, Any], path: StrPath | None = None) -> Figure:
    """Draw reliability diagrams, which show accuracy against confidence.

    The points of a calibrated model are on the diagonal. For a multi-label report, the diagram shows the share of true
    labels against the probability of a label.

    Args:
        reports: name -> `genrekeras.evaluation.Report` or `MultiLabelReport`, such as the reports before and after a
            calibration.
        path: file to save the figure to; `None` to save no file.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(4.2 * len(reports), 4.4), layout="constrained")
    for axes, (name, report) in zip(np.atleast_1d(figure.subplots(1, len(reports))), reports.items(), strict=True):
        confidence, accuracy, clips = (100 * np.array(column) for column in zip(*report.reliability, strict=True))
        axes.plot([0, 100], [0, 100], color=_TRAINING, linewidth=0.8, linestyle="--")
        axes.vlines(confidence, confidence, accuracy, color=_VALIDATION, alpha=0.35)
        sizes = 8 + 4 * clips / clips.sum() * len(clips) * 8
        axes.scatter(confidence, accuracy, s=sizes, color=_VALIDATION, zorder=3, clip_on=False)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{report.RELIABILITY_NAMES[0]} in %")
        axes.set_ylabel(f"{report.RELIABILITY_NAMES[1]} in %")
        axes.set_title(
            f"{plain_text(name)}: calibration error {report.calibration_error:.3f}\n{len(report.labels)} clips",
            fontsize=10,
        )
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def comparison(table: pd.DataFrame, path: StrPath | None = None) -> Figure:
    """Draw the scores of several models, and the differences from the first model, with 95 % intervals.

    A difference is gray if its interval contains 0.

    Args:
        table: the result of `genrekeras.evaluation.compare`.
        path: file to save the figure to; `None` to save no file.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(9.5, 1.4 + 0.38 * len(table)), layout="constrained")
    score_axes, difference_axes = figure.subplots(1, 2, sharey=True)
    column, name = ("accuracy", "accuracy") if "accuracy" in table else ("mean_average_precision", "mAP")
    rows = np.arange(len(table))
    for axes, columns, title in (
        (score_axes, (column, "low", "high"), f"{name} in % of {table['clips'].iloc[0]} clips"),
        (
            difference_axes,
            ("difference", "difference_low", "difference_high"),
            "difference from the first,\nin percentage points",
        ),
    ):
        values, low, high = (100 * table[column].to_numpy("float64") for column in columns)
        is_significant = np.ones(len(rows), bool)
        if axes is difference_axes:
            is_significant = np.nan_to_num(low) * np.nan_to_num(high) > 0
        for mask, color in ((is_significant, _VALIDATION), (~is_significant, _TRAINING)):
            axes.hlines(rows[mask], low[mask], high[mask], color=color, linewidth=2, alpha=0.5)
            axes.scatter(values[mask], rows[mask], color=color, s=28, zorder=3)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#d8dce2", linewidth=0.6)
        axes.set_axisbelow(True)
    difference_axes.axvline(0, color=_TRAINING, linewidth=0.8, linestyle="--")
    score_axes.set_yticks(rows, [plain_text(name) for name in table.index])
    score_axes.invert_yaxis()
    score_axes.margins(y=0.5 / len(table) + 0.1)
    return save(figure, path)


def save(figure: Figure, path: StrPath | None) -> Figure:
    """Save a figure if `path` is not `None`, and return it."""
    if path is not None:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=160)
    return figure
