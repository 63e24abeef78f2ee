"""Figures of audio: a spectrogram, the genres along a track, and the map of a collection."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from genrekeras.genres import PROBABILITY_PREFIX, genres_of
from genrekeras.utils.io import StrPath
from genrekeras.visualization.metrics import plain_text, save
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_MAX_ROWS = 10  # genres in the heat map of a timeline
_MAX_ERROR_OF_SUM = 1e-3  # of the probabilities of a single-label model


def spectrogram(
    image: np.ndarray,
    seconds: float,
    frequencies: np.ndarray,
    path: StrPath | None = None,
    title: str | None = None,
    offset: float = 0.0,
    image_range: tuple[float, float] = (0.0, 255.0),
) -> Figure:
    """Draw the spectrogram image of a clip, with low frequencies at the bottom.

    Args:
        image: `(mels, frames)`, the output of a front end.
        seconds: `> 0`, in s, length of the clip.
        frequencies: `(mels,)`, in Hz, center frequency of each row, ascending or descending.
        path: file to save the figure to (png, pdf or svg); `None` to save no file.
        title: title of the figure; `None` for the numbers of bands and frames.
        offset: in s, start of the clip in its file.
        image_range: values of the darkest and the brightest color, such as `model.image_range`.

    Returns:
        The figure.
    """
    mels, frames = image.shape
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    extent = (offset, offset + seconds, -0.5, mels - 0.5)
    low, high = image_range
    drawn = axes.imshow(image, aspect="auto", origin="lower", cmap="magma", vmin=low, vmax=high, extent=extent)
    if frequencies[0] > frequencies[-1]:
        axes.invert_yaxis()
    axes.set_yticks(*_frequency_ticks(frequencies))
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz (mel bands)")
    axes.set_title(plain_text(title or f"{mels} bands, {frames} frames"), fontsize=10)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, label="value in the image")
    bar.outline.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return save(figure, path)


def _frequency_ticks(frequencies):
    """Return positions and labels of ticks at round frequencies. Ticks are at least 1/15 of the height apart."""
    order = np.argsort(frequencies)
    rows, labels = [], []
    for hz in (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000):
        row = np.interp(hz, np.asarray(frequencies)[order], order.astype(float), left=np.nan, right=np.nan)
        if np.isfinite(row) and (not rows or abs(row - rows[-1]) >= len(order) / 15):
            rows.append(row)
            labels.append(f"{hz:,}")
    return rows, labels


def timeline(
    table: pd.DataFrame,
    path: StrPath | None = None,
    title: str | None = None,
    genres: Sequence[str] | None = None,
) -> Figure:
    """Draw the probabilities of the genres along a track.

    The probabilities of a single-label model sum to 1 in each clip. They are drawn as stacked areas. Those of a
    multi-label model do not. They are drawn as a heat map with a row for each genre, the most probable one at the top.
    If there are more than 10 genres, the heat map shows the 10 with the highest mean probability.

    Args:
        table: the result of `genrekeras.inference.predict_timeline`.
        path: file to save the figure to; `None` to save no file.
        title: title of the figure; `None` for no title.
        genres: the genres to draw, such as the labels of the kind "genre" (`genrekeras.inference.label_kinds`). `None`
            draws all labels of the model.

    Returns:
        The figure.
    """
    sums = table[[PROBABILITY_PREFIX + genre for genre in genres_of(table)]].sum(axis=1)
    genres = genres_of(table) if genres is None else list(genres)
    percentages = 100 * table[[PROBABILITY_PREFIX + genre for genre in genres]].to_numpy().T  # (genres, clips)
    start, end = table["start"].iloc[0], table["end"].iloc[-1]
    centers = (table["start"] + table["end"]).to_numpy() / 2
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if np.allclose(sums, 1, atol=_MAX_ERROR_OF_SUM):
        _draw_areas(axes, genres, np.concatenate([[start], centers[1:-1], [end]]), percentages)
    else:
        edges = np.concatenate([[start], (centers[1:] + centers[:-1]) / 2, [end]])
        _draw_heat_map(axes, genres, edges, percentages)
    axes.set_xlim(start, end)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02d}"))
    axes.set_xlabel("minutes:seconds")
    if title:
        axes.set_title(plain_text(title), fontsize=10)
    return save(figure, path)


def _draw_areas(axes, genres, times, percentages):
    """Draw the probabilities of a single-label model as stacked areas.

    Args:
        axes: axes of the figure.
        genres: names.
        times: `(clips,)`, in s. With a single clip: start and end of the clip.
        percentages: `(genres, clips)`.
    """
    if percentages.shape[1] == 1:
        percentages = np.repeat(percentages, 2, axis=1)
    axes.stackplot(times, percentages, labels=list(map(plain_text, genres)), colors=_colors(genres), linewidth=0)
    axes.set_ylim(0, 100)
    axes.set_ylabel("probability in %")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_heat_map(axes, genres, edges, percentages):
    """Draw the probabilities of a multi-label model as a heat map.

    Args:
        axes: axes of the figure.
        genres: names.
        edges: `(clips + 1,)`, in s, the left edge of the cells of each clip, and the right edge of the last one.
        percentages: `(genres, clips)`.
    """
    rows = np.argsort(-percentages.mean(axis=1), kind="stable")[:_MAX_ROWS]
    image = axes.pcolormesh(edges, np.arange(len(rows) + 1), percentages[rows], cmap="Blues", vmin=0)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [plain_text(genres[row]) for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, label="probability in %")
    bar.outline.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def collection_map(embeddings: Any, path: StrPath | None = None, title: str | None = None, seed: int = 0) -> Figure:
    """Draw a map of a collection. Each point is a track, and tracks with similar embeddings are close together.

    Args:
        embeddings: `genrekeras.inference.Embeddings`.
        path: file to save the figure to; `None` to save no file.
        title: title of the figure; `None` for the number of tracks.
        seed: seed of `Embeddings.map`.

    Returns:
        The figure.
    """
    points = embeddings.map(seed)
    predictions = embeddings.files["genre"].to_numpy()
    genres = [genre for genre in genres_of(embeddings.files) if (predictions == genre).any()]
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.add_subplot()
    size = np.clip(4000 / len(points), 6, 60)
    for genre, color in zip(genres, _colors(genres), strict=True):
        selected = points[predictions == genre]
        label = f"{plain_text(genre)}  ({len(selected)})"
        axes.scatter(selected[:, 0], selected[:, 1], s=size, color=color, alpha=0.85, linewidths=0, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    title = title or f"{len(points)} tracks, colored by predicted genre; neighbors have similar features"
    axes.set_title(plain_text(title), fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    for spine in axes.spines.values():
        spine.set_color("#d8dce2")
    return save(figure, path)


def _colors(genres):
    """Return a color for each genre. No two genres have the same color."""
    if len(genres) > 20:
        return colormaps["turbo"](np.linspace(0, 1, len(genres)))
    return colormaps["tab10" if len(genres) <= 10 else "tab20"].colors[: len(genres)]
