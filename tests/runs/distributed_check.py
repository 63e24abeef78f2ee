"""Training of a tiny network on several devices, on JAX: in this process, or in one of several processes.

    python tests/runs/distributed_check.py PROCESSES CACHE OUTPUT DEVICES...

For each number of devices, the gradient of the first step and histories are written to OUTPUT/DEVICES.npz. The number 0
means a training without distribution. OUTPUT/read-PROCESS.npy contains the tracks that this process has read in an
epoch.
"""

import contextlib
import pathlib
import sys

import distributed_experiment  # noqa: F401 - makes the backbone "mel_cnn" a tiny network
import genrekeras as gk
import keras
import numpy as np
from genrekeras.runs import distribution, runner

BATCH_SIZE, EPOCHS = 8, 2
TRAIN, PADDED, VALIDATION = 20, 21, 13  # The last batches have 4, 5 and 5 clips.


def batches(split, clips, seed=0, **arguments):
    options = {"batch_size": BATCH_SIZE, "clip_seconds": 1.0, "seed": seed, **arguments}
    return gk.datasets.batches(
        split.select(np.arange(clips)), distribution=keras.distribution.distribution(), **options
    )


def train(data, optimizer, epochs=EPOCHS, clips=TRAIN, seed=0, **arguments):
    """Return the model, its weights before the training, and the history."""
    keras.utils.set_random_seed(seed)
    parts = {"genres": data.genres, "clip_seconds": 1.0, "pretrained": None, "fine_tune": "all", **arguments}
    model = gk.GenreClassifier("mel_cnn", **parts)
    if clips == PADDED:  # The clips that complete the last batch have no effect with fixed statistics.
        for layer in model.feature_extractor.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    if keras.distribution.distribution():
        distribution.ignore_padding(model)
    before = model.get_weights()
    train = batches(data.train, clips, seed, crop="random", shuffle=True, class_weight="balanced")
    validation = batches(data.validation, VALIDATION)
    history = gk.training.fit(model, train, epochs, validation_data=validation, verbose=0).history
    return model, before, history


def results(data):
    """Return a dict of arrays."""
    model, before, _ = train(data, keras.optimizers.SGD(1.0), epochs=1, clips=BATCH_SIZE)
    trained = [variable.trainable for variable in model.weights]
    weights = zip(trained, before, model.get_weights(), strict=True)
    found = {f"gradient_{i}": old - new for i, (is_trained, old, new) in enumerate(weights) if is_trained}
    histories = {"sgd": train(data, keras.optimizers.SGD(0.05))[2]}
    histories["padded"] = train(data, keras.optimizers.SGD(0.05), clips=PADDED)[2]
    for seed in (0,) if keras.distribution.distribution() else (0, 1):
        augmented = {"dropout": 0.5, **runner.augmentation_of_2023(seed)}
        histories[f"adam_{seed}"] = train(data, keras.optimizers.Adam(1e-3), seed=seed, **augmented)[2]
    return found | {f"{run}_{key}": values for run, history in histories.items() for key, values in history.items()}


def read_tracks(data):
    """Return the ids of the tracks that this process reads in an epoch."""
    tracks, read = [], gk.datasets.Split.__getitem__

    def record(split, index):
        tracks.append(split.track_ids[index])
        return read(split, index)

    gk.datasets.Split.__getitem__ = record
    epoch = batches(data.train, TRAIN, shuffle=True)
    for index in range(len(epoch)):
        epoch[index]
    gk.datasets.Split.__getitem__ = read
    return tracks


def main(processes, cache, output, *numbers):
    if int(processes) > 1 and not distribution.is_worker():
        distribution.launch(int(processes), [], resume="")
    data, output = gk.datasets.load_synthetic(cache_dir=cache), pathlib.Path(output)
    for number in map(int, numbers):
        chosen = keras.distribution.list_devices()[:number] or None
        devices = keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False)
        with devices.scope() if number else contextlib.nullcontext():
            np.save(output / f"read-{devices.data_shard_id}.npy", read_tracks(data))
            found = results(data)
        if devices.data_shard_id == 0:
            np.savez(output / f"{number}.npz", **found)


if __name__ == "__main__":
    with distribution.worker() if distribution.is_worker() else contextlib.nullcontext():
        main(*sys.argv[1:])
