"""How many training clips of each genre does a head need on features of musicnn and of an ImageNet network?

    python experiments/ablations/learning_curves.py

The features of the frozen networks are computed once. The head is a logistic regression on standardized features. Its
regularization is the default of scikit-learn (L2, C = 1), and was fixed in advance. The data is the synthetic corpus,
which has 26 clips of each genre. In each of 100 random draws, 1, 2, 5, 10 or 16 clips of each genre are for training,
and 10 others are for the test. All networks have the same draws.

The tables contain the mean accuracy in % and, in brackets, the 2.5 and 97.5 percentiles of the draws. All draws are
from the same 208 clips, so these intervals say nothing about other music.

Expected: 45 s of processor time (PyTorch). docs/guide/musicnn.md contains the tables.
"""

import argparse
import tempfile
import time

import genrekeras as gk
import numpy as np
from genrekeras.utils import process
from sklearn import linear_model, pipeline, preprocessing

NETWORKS = {  # name -> backbone, weights, sample rate in Hz
    "musicnn_msd": ("musicnn", "msd", 16000),
    "musicnn_mtt": ("musicnn", "mtt", 16000),
    "efficientnet_lite0": ("efficientnet_lite0", "imagenet", 22050),
}
CLIP_SECONDS = 3.008  # of musicnn
TRAIN_CLIPS, TEST_CLIPS = (1, 2, 5, 10, 16), 10  # a genre


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="number of random draws of the clips (default: 100)")
    flags = parser.parse_args()
    process.configure()
    accuracies, milliseconds = {}, {}
    for name, network in NETWORKS.items():
        features, labels, milliseconds[name] = extract(*network)
        accuracies[name] = 100 * learning_curves(features, labels, flags.draws)
    columns = " | ".join(f"{clips} a genre" for clips in TRAIN_CLIPS)
    print(f"\n| features | {columns} | ms a clip |\n|---|{'---|' * len(TRAIN_CLIPS)}---|")
    for name, values in accuracies.items():
        print(f"| {name} | {cells(values)} | {milliseconds[name]:.0f} |")
    print(f"\n| difference | {columns} |\n|---|{'---|' * len(TRAIN_CLIPS)}")
    reference = accuracies.pop("efficientnet_lite0")
    for name, values in accuracies.items():
        print(f"| {name} - efficientnet_lite0 | {cells(values - reference)} |")


def extract(backbone, weights, sample_rate):
    """Return the features of all clips, `(clips, features)`, their labels, and the processor time in ms a clip.

    The time includes reading the clips and computing the spectrograms.
    """
    clips = gk.datasets.load_synthetic(sample_rate=sample_rate).all
    model = gk.GenreClassifier(backbone, clips.genres, clip_seconds=CLIP_SECONDS, pretrained=weights)
    with tempfile.TemporaryDirectory() as cache:
        gk.training.extract_features(model, clips.select(range(16)), cache)  # The first batch is slower.
        start = time.process_time()
        features, labels, _ = gk.training.extract_features(model, clips, cache)
    return features, labels, 1000 * (time.process_time() - start) / len(labels)


def learning_curves(features, labels, draws):
    """Return the accuracies on test clips, `(draws, len(TRAIN_CLIPS))`."""
    rng, accuracies = np.random.default_rng(0), np.empty((draws, len(TRAIN_CLIPS)))
    for draw in range(draws):
        order = np.stack([rng.permutation(np.flatnonzero(labels == genre)) for genre in np.unique(labels)])
        test = order[:, -TEST_CLIPS:].ravel()
        for column, clips in enumerate(TRAIN_CLIPS):
            train = order[:, :clips].ravel()
            head = pipeline.make_pipeline(
                preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=1000)
            )
            head.fit(features[train], labels[train])
            accuracies[draw, column] = head.score(features[test], labels[test])
    return accuracies


def cells(values):
    """Return the means and intervals of the columns of `(draws, columns)`, as cells of a Markdown table."""
    low, high = np.quantile(values, (0.025, 0.975), axis=0)
    return " | ".join(f"{x:.1f} [{a:.1f}, {b:.1f}]" for x, a, b in zip(values.mean(axis=0), low, high, strict=True))


if __name__ == "__main__":
    main()
