"""Training of a small network on several devices, on JAX: in this process, or in one of several processes.

    python tests/runs/distributed_check.py CACHE OUTPUT DEVICES...

For each number of devices, the gradient of the first step and histories are written to OUTPUT/DEVICES.npz. The number 0
means a training without distribution.
"""

import contextlib
import pathlib
import sys

sys.modules["tensorflow"] = None  # Keras would import it, which takes seconds
import genrekeras as gk
import keras
import numpy as np
from genrekeras.models.backbones import registry
from genrekeras.runs import distribution, runner

CLIPS, BATCH_SIZE, EPOCHS = 22, 8, 2  # the last batch has 6 clips


def tiny_network(image, name):
    x = keras.layers.AveragePooling2D((16, 4))(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name=f"{name}_conv1")(x)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.layers.GlobalAveragePooling2D()(x)


registry.BACKBONES["mel_cnn"] = registry.MelBackbone(tiny_network)


def train(data, optimizer, epochs=EPOCHS, clips=CLIPS, seed=0, class_weight="balanced", **arguments):
    """Return the model, its weights before the training, and the history."""
    keras.utils.set_random_seed(seed)
    parts = {"genres": data.genres, "clip_seconds": 1.0, "pretrained": None, "fine_tune": "all", **arguments}
    model = gk.GenreClassifier("mel_cnn", **parts)
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    devices = keras.distribution.distribution()
    if devices:
        distribution.weigh_metrics(model)
    before = model.get_weights()
    options = {"batch_size": BATCH_SIZE, "clip_seconds": 1.0, "seed": seed, "distribution": devices}
    train = data.train.select(np.arange(clips))
    batches = gk.datasets.batches(train, crop="random", shuffle=True, class_weight=class_weight, **options)
    validation = gk.datasets.batches(data.validation.select(np.arange(13)), **options)
    history = gk.training.fit(model, batches, epochs, validation_data=validation, verbose=0).history
    return model, before, {name: np.array(values) for name, values in history.items()}


def results(data):
    """Return a dict of arrays."""
    model, before, _ = train(data, lambda: keras.optimizers.SGD(1.0), epochs=1, clips=BATCH_SIZE)
    trained = [variable.trainable for variable in model.weights]
    pairs = zip(trained, before, model.get_weights(), strict=True)
    found = {f"gradient_{i}": old - new for i, (is_trained, old, new) in enumerate(pairs) if is_trained}
    _, _, history = train(data, lambda: keras.optimizers.SGD(0.05))
    found |= {f"sgd_{name}": values for name, values in history.items()}
    for seed in (0, 1):
        augmented = {"dropout": 0.5, **runner.augmentation_of_2023(seed)}
        _, _, history = train(data, lambda: keras.optimizers.Adam(1e-3), seed=seed, **augmented)
        found |= {f"adam_{seed}_{name}": values for name, values in history.items()}
    return found


def main(cache, output, *numbers):
    data = gk.datasets.load_synthetic(cache_dir=cache)
    for number in map(int, numbers):
        devices = keras.distribution.DataParallel(
            devices=keras.distribution.list_devices()[:number] if number else None, auto_shard_dataset=False
        )
        with devices.scope() if number else contextlib.nullcontext():
            found = results(data)
        if devices.data_shard_id == 0:
            np.savez(pathlib.Path(output) / f"{number}.npz", **found)


if __name__ == "__main__":
    with distribution.worker() if distribution.is_worker() else contextlib.nullcontext():
        main(*sys.argv[1:])
