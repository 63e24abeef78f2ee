"""Draw the figures of docs/results/fma-small.md.

    python docs/figures/results.py

- docs/images/accuracy-intervals.png: accuracies on fma_small, with intervals that treat tracks as independent, and with
  intervals that resample artists. `ACCURACIES` contains the figures. Except for the first accuracy, they were measured
  outside of this repository.
- docs/images/ablation-differences.png: differences between ablations, from experiments/results/ablations.jsonl.

Expected: 10 seconds on one core.
"""

import io
import json
import pathlib
import re
import sys

import matplotlib.pyplot as plt
from genrekeras.evaluation.intervals import wilson_interval
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
sys.path.append(str(ROOT / "experiments" / "ablations"))

import ablation_table  # noqa: E402

BLUE, ORANGE, GRAY = "#1f5fa8", "#c75b12", "#8a8a8a"
# Model, tracks, number of tracks, accuracy and its interval in %, if artists are resampled.
ACCURACIES = [
    ("fma_small preset", "official validation", 800, 61.1, (52.2, 69.1)),
    ("fma_small preset", "official test", 800, 50.0, (42.6, 58.2)),
    ("VGGish + logistic regression", "official validation", 800, 61.3, (53.6, 68.8)),
    ("VGGish + logistic regression", "official test", 800, 55.5, (45.1, 66.2)),
    ("VGGish + logistic regression", "five folds by artist", 7194, 62.0, (59.5, 64.4)),
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
    save(draw_ablations(), "ablation-differences.png")


def save(figure, name):
    """Save a figure as a PNG file with 32 colors, which is smaller than a file of all colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=120)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(32).save(IMAGES / name, optimize=True)


def draw_accuracies():
    """Return a figure of accuracies with both kinds of intervals."""
    figure, axes = plt.subplots(figsize=(7.5, 3.3))
    for row, (_, _, count, accuracy, by_artist) in enumerate(ACCURACIES):
        by_track = [100 * bound for bound in wilson_interval(round(accuracy * count / 100), count)]
        for (low, high), offset, color in ((by_track, -0.14, GRAY), (by_artist, 0.14, BLUE)):
            axes.plot([low, high], [row + offset] * 2, color=color, linewidth=3, solid_capstyle="butt")
            axes.plot(accuracy, row + offset, "o", color=color, markersize=6)
    axes.plot([], [], "-o", color=GRAY, linewidth=3, label="tracks treated as independent")
    axes.plot([], [], "-o", color=BLUE, linewidth=3, label="artists resampled")
    axes.set_yticks(range(len(ACCURACIES)), [f"{model}\n{tracks}" for model, tracks, *_ in ACCURACIES])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(40, 72)
    axes.set_xlabel("accuracy with 95 % interval, %")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return figure


def draw_ablations():
    """Return a figure of the differences between ablations and the ablations that they modify."""
    text = ablation_table.RESULTS.read_text(encoding="utf-8")
    runs = {}
    for row in map(json.loads, text.splitlines()):
        runs.setdefault((row["ablation"], row["protocol"]), []).append(row)
    between_seeds = {name: ablation_table.variance_between_seeds(runs, name) for name in ("official", "random")}
    labels, colors = [], {"official": BLUE, "random": ORANGE}
    figure, axes = plt.subplots(figsize=(7.5, 6.2))
    for name in dict.fromkeys(ablation for ablation, _ in runs):
        bases = ablation_table.BASES.get(name, (name.split("_")[0],))
        drawn = [protocol for protocol in colors if (name, protocol) in runs and bases[0] != name]
        for protocol in drawn:
            base = next(base for base in bases if (base, protocol) in runs)
            difference = ablation_table.difference(runs[name, protocol], runs[base, protocol], between_seeds)
            mean, low, high = map(float, re.findall(r"[-+][\d.]+", difference))
            y = len(labels) + (0.17 if protocol == "random" else -0.17) * (len(drawn) > 1)
            axes.plot([low, high], [y, y], color=colors[protocol], linewidth=2.5, solid_capstyle="butt")
            axes.plot(mean, y, "o", color=colors[protocol], markersize=5)
        if drawn:
            used = dict.fromkeys(next(base for base in bases if (base, protocol) in runs) for protocol in drawn)
            labels.append(f"{name}, to {' / '.join(used)}")
    for protocol, color in colors.items():
        axes.plot([], [], "-o", color=color, linewidth=2.5, markersize=5, label=f"{protocol} protocol")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("difference of the accuracy with 95 % interval, percentage points")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main()
