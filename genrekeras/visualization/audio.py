"""Figures of audio: a spectrogram, the genres along a track, and the map of a collection."""

from typing import Any

import numpy as np
import pandas as pd
from genrekeras.genres import PROBABILITY_PREFIX, genres_of
from genrekeras.utils.io import StrPath
from genrekeras.visualization.metrics import plain_text, save
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_MAX_LINES = 8  # in the timeline of a multi-label model


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
    table: pd.DataFrame, path: StrPath | None = None, title: str | None = None, multi_label: bool = False
) -> Figure:
    """Draw the probabilities of the genres along a track.

    Args:
        table: the result of `genrekeras.inference.predict_timeline`.
        path: file to save the figure to; `None` to save no file.
        title: title of the figure; `None` for no title.
        multi_label: whether the genres are independent of each other. If so, the figure shows lines of the eight genres
            with the highest mean probability, instead of stacked areas of all genres.

    Returns:
        The figure.
    """
    genres = genres_of(table)
    if multi_label:
        genres = sorted(genres, key=lambda genre: -table[PROBABILITY_PREFIX + genre].mean())[:_MAX_LINES]
    times = (table["start"] + table["end"]).to_numpy() / 2
    times[0], times[-1] = table["start"].iloc[0], table["end"].iloc[-1]  # The areas begin and end with the track.
    percentages = 100 * table[[PROBABILITY_PREFIX + genre for genre in genres]].to_numpy().T
    if len(table) == 1:
        times, percentages = table[["start", "end"]].to_numpy()[0], np.repeat(percentages, 2, axis=1)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names, colors = list(map(plain_text, genres)), _colors(genres)
    if multi_label:
        for values, name, color in zip(percentages, names, colors, strict=True):
            axes.plot(times, values, label=name, color=color, linewidth=1.5)
    else:
        axes.stackplot(times, percentages, labels=names, colors=colors, linewidth=0)
    axes.set_xlim(table["start"].iloc[0], table["end"].iloc[-1])
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02d}"))
    axes.set_xlabel("minutes:seconds")
    axes.set_ylabel("probability in %")
    if title:
        axes.set_title(plain_text(title), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    step = 1 if multi_label else -1  # The first of the stacked areas is at the bottom.
    axes.legend(
        handles[::step], labels[::step], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9
    )
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


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
    genres = genres_of(embeddings.files)
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.add_subplot()
    size = np.clip(4000 / len(points), 6, 60)
    for genre, color in zip(genres, _colors(genres), strict=True):
        selected = points[predictions == genre]
        if len(selected):
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
    """Return one color per genre. With more than 20 genres, colors are repeated."""
    palette = colormaps["tab10" if len(genres) <= 10 else "tab20"].colors
    return [palette[index % len(palette)] for index in range(len(genres))]
