"""Features of a frozen backbone: made once for each clip, kept on disk, so that the head trains in seconds."""

import hashlib
import json
import os
import types
from typing import NamedTuple

import grain
import keras
import numpy as np
from genrekeras.datasets.batches import Batches, checked_weights, fill
from genrekeras.models import folding
from genrekeras.training import identity
from genrekeras.training.resumable import fit
from genrekeras.utils import io
from genrekeras.utils.progress import print_message
from genrekeras.version import __version__


class Features(NamedTuple):
    """What a frozen backbone makes of a split; unpacks as `features, labels, track_ids`.

    Attributes:
        features: `(clips * variants, feature_dim)` float32; the variants of a clip follow each other.
        labels: `(clips * variants,)` int32.
        track_ids: `(clips * variants,)` int64.
    """

    features: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray


def extract_features(
    model, split, cache_dir=None, crop="start", crops=1, augment=False, seed=0, batch_size=16, workers=2
):
    """Compute the features of each clip of a split once, or read them from the cache.

    The cache key covers everything that the features depend on: clips, labels, crops, `seed`, `augment`; configs and
    weights of the front end, of the image augmentation (with `augment=True`) and of the backbone; the backend and the
    version of genrekeras. It does not cover seeds that random layers draw by themselves (`seed=None`). A damaged entry
    is computed again. Two processes do not compute the same entry at the same time.

    Args:
        model: `GenreClassifier` with `fine_tune="head"`, whose backbone is frozen.
        split: `genrekeras.datasets.Split`; or `SpectrogramSplit`, whose images replace those of the front end.
        cache_dir: str or path-like; `None` is the folder `features` in the user's cache (or in the environment variable
            GENREKERAS_CACHE).
        crop, crops: position of the crop of `model.clip_seconds`, and number of crops of each clip, as in
            `genrekeras.datasets.batches`.
        augment: bool, whether the model's augmentation is applied, with new random numbers for each crop.
        seed: int, of random crops.
        batch_size: int > 0.
        workers: int > 0, number of threads that read ahead.

    Returns:
        `Features`.

    Raises:
        ValueError: the backbone is not frozen, or the split does not fit the model.
        OSError: `cache_dir` cannot be written.
    """
    if model.fine_tune != "head":
        raise ValueError(
            'Features can be kept where the backbone stands still: `model.fine_tune` must be "head". '
            f"Received: fine_tune={model.fine_tune!r}"
        )
    data = split.batches(batch_size, model.clip_seconds, crop, crops, seed, workers)
    model.check_data(data)
    cache_dir = os.path.join(io.cache_dir(), "features") if cache_dir is None else os.fspath(cache_dir)
    steps = _steps(model, augment, split.inputs)
    path = os.path.join(cache_dir, f"{_key(steps, (split.fingerprint, crop, crops, seed, augment))}.npz")
    shape = (len(split) * crops, *model.feature_extractor.output_shape[1:])
    with io.process_lock(cache_dir, f"features {os.path.basename(path)[:8]}"):
        features = _read(path, shape)
        if features is None:
            features = np.empty(shape, "float32")
            inputs = keras.Input(steps[0].input_shape[1:])
            fill(features, data, _way(inputs, steps, augment).predict_on_batch, f"Features of {split.name}")
            with io.atomic_write(path) as temporary:
                np.savez(temporary, features=features)
    rows = np.repeat(np.arange(len(split)), crops)
    return Features(features, split.labels[rows], split.track_ids[rows])


def fit_head(model, train, validation=None, batch_size=16, epochs=1, seed=0, class_weight=None, **options):
    """Train the head of a compiled model on features; the other parts of the model do not change.

    The order of the batches is that of `model.fit` on `datasets.batches(..., shuffle=True)` with the same seed. An
    epoch takes one random variant of each clip. The head is trained by the model's own optimizer, so that training
    can be continued after the model was saved.

    Args:
        model: compiled `GenreClassifier` with `fine_tune="head"`.
        train, validation: `Features`, or `None` for no validation.
        batch_size: int > 0.
        epochs: int > 0.
        seed: int, of the order.
        class_weight: as in `genrekeras.datasets.batches`: `None`, `"balanced"`, or a sequence of floats, one a genre.
        options: other arguments of `genrekeras.training.fit`, such as `callbacks` (`BestCheckpoint(..., model=model)`),
            `state`, `initial_epoch`, `verbose`.

    Returns:
        `keras.callbacks.History`.

    Raises:
        ValueError: the model is not compiled or its backbone not frozen, or an argument is out of range.
    """
    if model.fine_tune != "head" or not model.compiled:
        raise ValueError(
            '`model` must be compiled and have fine_tune="head". '
            f"Received: fine_tune={model.fine_tune!r}, compiled={model.compiled}"
        )
    # A model of its own over the same layers: Keras would save an optimizer that two parts of a model share as the
    # part's, and lose it for the whole.
    trainer = keras.Model(model.head.inputs, model.head.outputs)
    trainer.compile_from_config(model.get_compile_config())
    trainer.optimizer, trainer.jit_compile = model.optimizer, model.jit_compile
    model.reset_card()
    if not model.optimizer.built:
        model.optimizer.build(trainer.trainable_variables)
    data = _batches(model, train, batch_size, seed, class_weight)
    held_out = None if validation is None else (validation.features, validation.labels)
    return fit(trainer, data, epochs, validation_data=held_out, **options)


def _batches(model, features, batch_size, seed, class_weight):
    clips = len(np.unique(features.track_ids))
    if clips == 0 or len(features.labels) % clips:
        raise ValueError("`train` must hold at least one clip, and as many variants of each.")
    variants = len(features.labels) // clips
    weights = checked_weights(class_weight, types.SimpleNamespace(labels=features.labels, genres=model.genres))

    def of_rows(rows):
        labels = features.labels[rows]
        batch = features.features[rows], labels
        return batch if weights is None else (*batch, weights[labels])

    clips = grain.MapDataset.source(range(clips)).seed(seed).shuffle()
    rows = clips
    if variants > 1:
        rows = rows.random_map(lambda clip, rng: clip * variants + int(rng.integers(variants)))
    track_ids = clips.map(lambda clip: features.track_ids[clip * variants]).batch(batch_size)
    data = rows.batch(batch_size).map(of_rows)
    fingerprint = {
        "features": identity.digest(*features),
        "batch_size": batch_size,
        "seed": seed,
        "class_weight": None if weights is None else weights.tolist(),
    }
    return Batches(data, model.sample_rate, model.genres, model.clip_seconds, track_ids, fingerprint)


class _AsInTraining(keras.layers.Layer):
    """A layer that augments in `predict` too: Keras tells all layers that say `training` that there is none."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs, training=True)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def _steps(model, augment, inputs):
    """Return the models and layers from the inputs, `"waveform"` or `"image"`, to the features."""
    front_end = [model.front_end] if inputs == "waveform" else []
    return [*front_end, *(_image_augmentation(model) if augment else []), model.feature_extractor]


def _way(inputs, steps, augment):
    """Return a model of these steps, for inference."""
    *upstream, feature_extractor = steps
    upstream = [_AsInTraining(step) for step in upstream] if augment else upstream
    return keras.Model(inputs, folding.LayerChain([*upstream, folding.for_inference(feature_extractor)])(inputs))


def _image_augmentation(model):
    parts = (model.feature_extractor, model.head)
    return [
        layer
        for layer in model.image_model.layers
        if layer not in parts and not isinstance(layer, keras.layers.InputLayer)
    ]


def _key(steps, options):
    """Return a cache key, a hash of everything that the features depend on.

    The attribute `weights` of a layer excludes the states of random layers, which change at each call.
    """
    about = [options, [identity.config_of(step) for step in steps], keras.backend.backend(), __version__]
    weights = [keras.ops.convert_to_numpy(weight) for step in steps for weight in step.weights]
    return hashlib.sha256(f"{json.dumps(about)}{identity.digest(*weights)}".encode()).hexdigest()[:32]


def _read(path, shape):
    """The features in an entry, or `None` if there is none that is whole."""
    try:
        features = io.read_arrays(path)["features"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        print_message(f"{path} cannot be read ({error}): made anew.")
        return None
    if features.shape != shape or features.dtype != np.float32:
        print_message(f"{path} holds something else: made anew.")
        return None
    return features
