"""How long do the steps of `genrekeras train` take, compared with decoding?

    python experiments/benchmarks/collection.py --tracks 40

The script writes mp3 files of 30 s to a temporary folder. It measures processor time, so that other programs on the
same machine have little effect:

- decoding of the files;
- features of the files, and the same for cached features;
- cross-validation, learning curve and final training of the last layer, for 2,000 tracks of 10 genres with simulated
  features of 10 clips each.

Expected: docs/results/speed.md. With musicnn, the features take 7.6 times as long as decoding, because the network
processes 10 clips of a track of 30 s.
"""

import argparse
import pathlib
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import process_settings  # noqa: F401

import genrekeras as gk
import numpy as np
import pandas as pd
from genrekeras.datasets.labels import add_labels
from genrekeras.datasets.synthetic import make_many
from genrekeras.inference.features import file_features
from genrekeras.runs.head_scores import cross_validate_head, learning_curve
from genrekeras.training.linear_head import FeatureSplit, fit_linear_head
from genrekeras.utils import process

GENRES = tuple(f"genre {number}" for number in range(10))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=40, help="number of files (default: 40)")
    parser.add_argument("--head-tracks", type=int, default=2000, help="number of simulated tracks (default: 2000)")
    parser.add_argument("--seconds", type=int, default=30, help="length of the files (default: 30)")
    flags = parser.parse_args()
    process.configure()
    print("| step | processor time |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, flags.tracks, flags.seconds)
        paths = sorted(str(path) for path in pathlib.Path(folder).rglob("*.mp3"))
        model = gk.GenreClassifier("musicnn", GENRES, pretrained="msd")
        file_features(model, paths[:2], cache_dir=f"{folder}/other")  # the first call is slower
        decoding = measure(lambda: [gk.audio.load(path, model.sample_rate) for path in paths])
        features = measure(lambda: file_features(model, paths, cache_dir=f"{folder}/cache"))
        cached = measure(lambda: file_features(model, paths, cache_dir=f"{folder}/cache"))
    for name, seconds in (("decoding", decoding), ("features", features), ("cached features", cached)):
        print(f"| {name}, a track | {1000 * seconds / len(paths):.1f} ms ({seconds / decoding:.2f} x decoding) |")
    split = simulated(flags.head_tracks)
    results = []
    for name, function in (
        ("last layer", lambda: fit_linear_head(split)),
        ("cross-validation", lambda: results.append(cross_validate_head(split, ""))),
        ("learning curve", lambda: learning_curve(split, results[0])),
    ):
        print(f"| {name}, {len(split):,} tracks | {measure(function):.2f} s |")


def measure(function):
    """Return the processor time of a call in s."""
    start = time.process_time()
    function()
    return time.process_time() - start


def simulated(count):
    """Return tracks with random features of 10 clips, 8 tracks of each artist. Most labels fit the features."""
    rng = np.random.default_rng(0)
    artists = np.arange(count) // 8
    genres = artists % len(GENRES)
    centers = 0.4 * rng.standard_normal((len(GENRES), 200))[genres] + rng.standard_normal((count, 200))
    features = [(center + rng.standard_normal((10, 200))).astype("float32") for center in centers]
    labels = np.where(rng.random(count) < 0.2, rng.integers(0, len(GENRES), count), genres)
    tracks = pd.DataFrame({"genre": [GENRES[label] for label in labels], "artist_id": artists, "album_id": -1})
    return FeatureSplit(add_labels(tracks.rename_axis("track_id"), GENRES), features, GENRES)


if __name__ == "__main__":
    main()
