"""Pictures of what a model hears: a spectrogram, the genres along a track, a collection on a plane."""

import numpy as np
from genrekeras.genres import genres_of
from genrekeras.visualization.metrics import plain_text, saved
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter


def spectrogram(image, seconds, frequencies, path=None, title=None, offset=0.0):
    """What a model sees of a clip, with low frequencies at the bottom whichever row they are.

    Args:
        image: `(mels, frames)` array, 0..255, as its front end gives it.
        seconds: float > 0, length of the clip.
        frequencies: `(mels,)`, in Hz, the middle of the band of each row.
        path: str or path-like, where to save it (png, pdf or svg), or `None`.
        title: str or `None`.
        offset: float, in s, where in the file the clip begins.

    Returns:
        `matplotlib.figure.Figure`.
    """
    mels, frames = image.shape
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    extent = (offset, offset + seconds, -0.5, mels - 0.5)
    shown = axes.imshow(image, aspect="auto", origin="lower", cmap="magma", vmin=0, vmax=255, extent=extent)
    if frequencies[0] > frequencies[-1]:
        axes.invert_yaxis()
    axes.set_yticks(*_frequency_ticks(frequencies))
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz (mel bands)")
    axes.set_title(plain_text(title or f"{mels} bands, {frames} frames"), fontsize=10)
    bar = figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.01, label="gray value")
    bar.outline.set_visible(False)
    bar.set_ticks([0, 64, 128, 192, 255])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return saved(figure, path)


def _frequency_ticks(frequencies):
    """Rows and names of round frequencies, none closer than a fifteenth of the height to the one before."""
    rising = np.argsort(frequencies)
    rows, names = [], []
    for hz in (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000):
        row = np.interp(hz, np.asarray(frequencies)[rising], rising.astype(float), left=np.nan, right=np.nan)
        if np.isfinite(row) and (not rows or abs(row - rows[-1]) >= len(rising) / 15):
            rows.append(row)
            names.append(f"{hz:,}")
    return rows, names


def timeline(table, path=None, title=None):
    """The genres along a track, as areas that add up to 100 %.

    Args:
        table: `pandas.DataFrame` of `genrekeras.inference.predict_timeline`.
        path: str or path-like, where to save it, or `None`.
        title: str or `None`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    genres = genres_of(table)
    middle = (table["start"] + table["end"]).to_numpy() / 2
    middle[0], middle[-1] = table["start"].iloc[0], table["end"].iloc[-1]  # the areas reach from end to end
    shares = 100 * table[[f"probability_{genre}" for genre in genres]].to_numpy().T
    if len(table) == 1:
        middle, shares = table[["start", "end"]].to_numpy()[0], np.repeat(shares, 2, axis=1)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.stackplot(middle, shares, labels=list(map(plain_text, genres)), colors=_colors(genres), linewidth=0)
    axes.set_xlim(table["start"].iloc[0], table["end"].iloc[-1])
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02d}"))
    axes.set_xlabel("minutes:seconds")
    axes.set_ylabel("probability in %")
    if title:
        axes.set_title(plain_text(title), fontsize=10)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return saved(figure, path)


def collection_map(embeddings, path=None, title=None, seed=0):
    """The tracks of a collection on a plane: those that sound alike to a model lie close together.

    Args:
        embeddings: `genrekeras.inference.embeddings.Embeddings`.
        path: str or path-like, where to save it, or `None`.
        title: str or `None`.
        seed: int, of the map.

    Returns:
        `matplotlib.figure.Figure`.
    """
    places = embeddings.map(seed)
    found = embeddings.files["genre"].to_numpy()
    genres = genres_of(embeddings.files)
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.add_subplot()
    size = np.clip(4000 / len(places), 6, 60)
    for genre, color in zip(genres, _colors(genres), strict=True):
        own = places[found == genre]
        if len(own):
            label = f"{plain_text(genre)}  ({len(own)})"
            axes.scatter(*own.T, s=size, color=color, alpha=0.85, linewidths=0, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    title = title or f"{len(places)} tracks, coloured by predicted genre; neighbours sound alike"
    axes.set_title(plain_text(title), fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    for spine in axes.spines.values():
        spine.set_color("#d8dce2")
    return saved(figure, path)


def _colors(genres):
    palette = colormaps["tab10" if len(genres) <= 10 else "tab20"].colors
    return [palette[place % len(palette)] for place in range(len(genres))]
