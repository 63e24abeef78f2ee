"""How accurate are models on artists that they were not trained on? Cross-validation of all models of this project.

    python experiments/ablations/cross_validation.py --spectrograms fma_small.npz --groups artists.csv
    python experiments/ablations/cross_validation.py --spectrograms fma_small.npz --groups artists.csv \\
        --models mel_cnn mel_resnet --seeds 3

For each of five folds, a model is trained on the tracks of the other folds, and predicts the tracks of the fold. With
the protocol "artist_folds", all tracks of an artist are in the same fold. With "random_folds", tracks are assigned at
random. The difference between the two scores shows how much the accuracy increases if a model was trained on other
tracks of the same artists. All models except `vggish` use 128 frames of each track.

- `majority`: the most frequent genre of the training tracks.
- `mfcc_svm`: a support vector machine on statistics of 20 MFCCs, as in experiments/mfcc_svm.py.
- `vggish`: logistic regression on embeddings of VGGish, a network that was trained on millions of videos. The
  embeddings are read from the file --vggish.
- `lite0_frozen`: EfficientNet-Lite0 with ImageNet weights. Only the last layer is trained.
- `lite0_new_stem`: the same, with a new first convolution, which is also trained, as in 2023.
- `lite0_trained`: the same network. All layers are trained.
- `mel_cnn`, `mel_resnet`: small networks from random weights, trained with channel effects and masks.
- `mel_cnn_no_augmentation`: `mel_cnn` without channel effects and masks.
- `mel_cnn_teacher`, `mel_resnet_teacher`: the networks of the preset fma_small, see experiments/train_ensemble.py. They
  are trained without channel effects and masks, and learn from the embeddings of --vggish. Their predictions do not
  need the embeddings. The statistics of batch normalization are computed again after the training.
- `ensemble`: the mean of the logits of `mel_cnn` and `mel_resnet`, for each seed. `ensemble_of_seeds` is the mean of
  the networks of all seeds. `ensemble_teacher` and `ensemble_teacher_of_seeds` are those of the networks that learn
  from embeddings.

Each run adds a line to runs.jsonl and a table of its probabilities, with a row for each track, to the folder --output.
Runs that the folder already contains are not repeated, and interrupted runs are resumed. At the end, the results of all
runs in the folder are printed.

Expected: the scores and times in docs/results/fma-small.md.
"""

import argparse
import functools
import os
import pathlib
import shutil
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import process_settings  # noqa: F401

import cross_validation_table
import genrekeras as gk
import keras
import librosa
import mfcc_svm
import numpy as np
from genrekeras.datasets.groups import FOLD_PROTOCOLS, artist_groups
from genrekeras.evaluation import Report, cross_validate
from genrekeras.runs import recipe, runner
from genrekeras.utils import process
from sklearn import dummy, pipeline, preprocessing, svm

PRETRAINED = recipe.Network("efficientnet_lite0", "imagenet", dropout=0.5, epochs=5, learning_rate=1e-3, use_ema=False)
PLAIN = PRETRAINED._replace(augmentation=False, mix_probability=0.0)
NETWORKS = {
    "lite0_frozen": PLAIN._replace(fine_tune="head", epochs=30),
    "lite0_new_stem": PLAIN._replace(stem="new", fine_tune="stem"),
    "lite0_trained": PRETRAINED,
    "mel_cnn": recipe.Network("mel_cnn"),
    "mel_cnn_no_augmentation": recipe.Network("mel_cnn", augmentation=False),
    "mel_resnet": recipe.Network("mel_resnet"),
    **{f"{network.backbone}_teacher": network for network in recipe.PRESET},
}
MODELS = ("majority", "mfcc_svm", "vggish", *NETWORKS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--spectrograms", required=True, metavar="FILE", help=".npz file that `genrekeras fma spectrograms` wrote")
    add(
        "--groups",
        metavar="CSV",
        help="table with track_id and artist_id, if the file of --spectrograms has no artists",
    )
    add(
        "--vggish",
        metavar="FILE",
        help=".npz file with the arrays track_id and vggish, for models that need embeddings",
    )
    add(
        "--models",
        nargs="+",
        choices=MODELS,
        metavar="MODEL",
        help=f"{', '.join(MODELS)} (default: all; those that need --vggish only with this option)",
    )
    add("--protocol", default="artist_folds", choices=FOLD_PROTOCOLS, help="kind of folds (default: artist_folds)")
    add("--seeds", type=int, default=1, help="number of runs of each network, with the seeds 0, 1, ... (default: 1)")
    add("--epochs", type=int, help="number of epochs of all networks (default: depends on the network)")
    add("--processes", type=int, default=1, help="number of folds that are computed at the same time (default: 1)")
    add(
        "--output",
        default=cross_validation_table.RESULTS,
        metavar="FOLDER",
        help="folder of the results (default: experiments/results/cross_validation)",
    )
    flags = parser.parse_args()
    if not flags.vggish and any(map(needs_vggish, flags.models or [])):
        parser.error("--vggish is required for these models")
    process.configure()
    data = gk.datasets.load_spectrograms(flags.spectrograms, groups=flags.groups).all
    print(data)
    for seed in range(flags.seeds):
        for name in flags.models or [model for model in MODELS if flags.vggish or not needs_vggish(model)]:
            if name in NETWORKS or seed == 0:  # the other models have no randomness
                run(name, seed, data, flags)
    cross_validation_table.print_tables(flags.output)


def needs_vggish(name):
    """Return whether a model needs the embeddings of --vggish."""
    return name == "vggish" or (name in NETWORKS and NETWORKS[name].teacher)


def run(name, seed, data, flags):
    """Cross-validate a model, and write its results, unless the output folder already contains them."""
    network = NETWORKS.get(name)
    if network and flags.epochs:
        network = network._replace(epochs=flags.epochs)
    entry = {"model": name, "protocol": flags.protocol, "seed": seed, "data": data.fingerprint}
    entry |= {"settings": str(network or ""), "processor": runner.processor()}
    file = f"{name}-{flags.protocol}-{seed}"
    if any(entry.items() <= other.items() for other in cross_validation_table.read_runs(flags.output)):
        return
    if network:
        # One image shows the shape, and is copied to other processes faster than all images.
        make_model = functools.partial(make_network, network, seed, data.select([0]))
        train, evaluate = functools.partial(train_network, network, seed, flags.vggish), gk.evaluation.evaluate
    else:
        make_model = functools.partial(make_baseline, name)
        features = functools.partial(FEATURES[name], flags)
        train, evaluate = functools.partial(train_baseline, features), functools.partial(evaluate_baseline, features)
    folder = os.path.join(flags.output, f"unfinished-{file}")
    result = cross_validate(
        make_model,
        train,
        data,
        protocol=flags.protocol,
        evaluate=evaluate,
        folder=folder,
        processes=flags.processes,
    )
    print(f"{file}: {result.report}\n", flush=True)
    entry["seconds"] = [round(seconds) for seconds in result.seconds.tolist()]
    cross_validation_table.write_run(flags.output, file, entry, result)
    shutil.rmtree(folder)


def make_network(network, seed, data):
    """Return an untrained network."""
    process.configure()
    return recipe.make_model(network, data, seed)


def train_network(network, seed, vggish, model, split):
    """Train a network on spectrograms for a fixed number of epochs."""
    if network.fine_tune != "head":
        embeddings = recipe.read_embeddings(vggish, split) if network.teacher else None
        recipe.train(network, model, split, seed, embeddings)
        return
    features = gk.training.extract_features(model, split)
    steps = -(-len(split) // recipe.BATCH_SIZE) * network.epochs
    rate = keras.optimizers.schedules.CosineDecay(network.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": recipe.BATCH_SIZE, "epochs": network.epochs, "seed": seed, "verbose": 0}
    gk.training.fit_head(model, features, **options)


def make_baseline(name):
    """Return an untrained classifier of scikit-learn."""
    if name == "majority":
        return dummy.DummyClassifier(strategy="prior")
    if name == "mfcc_svm":
        return pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=1.0, break_ties=True))
    return recipe.teacher()


def train_baseline(features, classifier, split):
    classifier.fit(features(split), split.labels)


def evaluate_baseline(features, classifier, split):
    """Return the `Report` of a classifier of scikit-learn on a split."""
    probabilities = mfcc_svm.predict_probabilities(classifier, features(split), len(split.genres))
    tracks = split.track_ids, split.labels, probabilities
    return Report(
        split.genres, split.name, split.protocol, *tracks, split.input_coverage(), artist_groups(split.tracks)
    )


def mfcc_features(flags, split):
    """Return statistics of the MFCCs of the sampled frames. The lowest mel band comes first."""
    decibels = split.images[:, ::-1, :, 0].astype("float32") * (80 / 255)
    return np.stack([mfcc_svm.statistics(librosa.feature.mfcc(S=image, n_mfcc=20)) for image in decibels])


FEATURES = {
    "majority": lambda flags, split: np.zeros((len(split), 1)),
    "mfcc_svm": mfcc_features,
    "vggish": lambda flags, split: recipe.read_embeddings(flags.vggish, split),
}


if __name__ == "__main__":
    main()
