"""Draw the figure of docs/results/fma-small.md.

    python docs/figures/results.py

docs/images/accuracy-intervals.png: accuracies on fma_small, with intervals that treat tracks as independent, and with
intervals that resample artists. `OFFICIAL` contains those on the official splits. Except for the first one, they were
measured outside of this repository. The others are computed from experiments/results/cross_validation.

Expected: 20 seconds on one core.
"""

import io
import pathlib
import sys

import matplotlib.pyplot as plt
from genrekeras.evaluation.intervals import wilson_interval
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments" / "ablations"))

import cross_validation_table as table  # noqa: E402

IMAGES = ROOT / "docs" / "images"
BLUE, GRAY = "#1f5fa8", "#8a8a8a"
# Model, tracks, number of tracks, accuracy and its interval in %, if artists are resampled.
OFFICIAL = [
    ("earlier fma_small preset", "official validation", 800, 61.1, (52.0, 69.1)),
    ("earlier fma_small preset", "official test", 800, 50.0, (42.6, 58.2)),
    ("VGGish + logistic regression", "official validation", 800, 61.3, (53.6, 68.8)),
    ("VGGish + logistic regression", "official test", 800, 55.5, (45.1, 66.2)),
]


def main():
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
        }
    )
    IMAGES.mkdir(exist_ok=True)
    save(draw_accuracies(), "accuracy-intervals.png")


def save(figure, name):
    """Save a figure as a PNG file with 32 colors, which is smaller than a file of all colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=120)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(32).save(IMAGES / name, optimize=True)


def cross_validated():
    """Return rows like those of `OFFICIAL` for the cross-validation by artist, without the most frequent genre."""
    runs = table.read_all(table.RESULTS)
    rows = []
    for (model, protocol), results in runs.items():
        if protocol == "artist_folds" and model != "majority":
            accuracy = 100 * table.hits(results).mean()
            low, high = table.accuracy_interval(results)
            count = len(results[0].folds)
            rows.append((model, "five folds by artist", count, accuracy, (100 * low, 100 * high)))
    return sorted(rows, key=lambda row: row[3])


def draw_accuracies():
    """Return a figure of accuracies with both kinds of intervals."""
    rows = OFFICIAL + cross_validated()
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.42 * len(rows)))
    for row, (_, _, count, accuracy, by_artist) in enumerate(rows):
        by_track = [100 * bound for bound in wilson_interval(round(accuracy * count / 100), count)]
        for (low, high), offset, color in ((by_track, -0.14, GRAY), (by_artist, 0.14, BLUE)):
            axes.plot([low, high], [row + offset] * 2, color=color, linewidth=3, solid_capstyle="butt")
            axes.plot(accuracy, row + offset, "o", color=color, markersize=6)
    axes.plot([], [], "-o", color=GRAY, linewidth=3, label="tracks treated as independent")
    axes.plot([], [], "-o", color=BLUE, linewidth=3, label="artists resampled")
    axes.set_yticks(range(len(rows)), [f"{model}, {tracks}" for model, tracks, *_ in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(35, 72)
    axes.set_xlabel("accuracy with 95 % interval, %")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main()
