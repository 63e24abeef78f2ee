"""Cache the features of a frozen backbone. Each clip is processed once, and the head trains on features in seconds."""

import hashlib
import json
import os
import types
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import grain
import keras
import numpy as np
from genrekeras.datasets.batches import Batches, fill
from genrekeras.datasets.labels import checked_weights, label_rows, sample_weights
from genrekeras.datasets.spectrograms import SpectrogramSplit
from genrekeras.datasets.splits import Split
from genrekeras.models import folding
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.training import identity
from genrekeras.training.resumable import fit
from genrekeras.utils import io
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import print_message
from genrekeras.version import __version__


class Features(NamedTuple):
    """Features of a split, computed by a frozen backbone. They unpack as `features, labels, track_ids`.

    Attributes:
        features: `(clips * variants, feature_dim)` float32. The variants (crops) of a clip are consecutive rows.
        labels: `(clips * variants,)` int32, label of each row. If clips have several labels,
            `(clips * variants, genres)` float32.
        track_ids: `(clips * variants,)` int64, track id of each row.
    """

    features: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray


def extract_features(
    model: GenreClassifier,
    split: Split | SpectrogramSplit,
    cache_dir: StrPath | None = None,
    crop: Literal["start", "center", "even", "random"] = "start",
    crops: int = 1,
    augment: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 2,
) -> Features:
    """Compute the features of each clip of a split, or read them from the cache.

    The cache has an entry for each combination of everything that the features depend on:

    - the clips, the labels, the crops, `seed` and `augment`;
    - the configs and weights of the front end, the backbone and, with `augment=True`, the image augmentation;
    - the backend and the version of genrekeras.

    Random layers with `seed=None` draw a seed themselves. The cache ignores these seeds. A damaged entry is computed
    again. Two processes do not compute the same entry at the same time.

    Args:
        model: its backbone must be frozen (`fine_tune="head"`).
        split: the front end does not process the images of a `SpectrogramSplit`.
        cache_dir: folder of the cache. `None` is the folder `features` in the user's cache, or in the folder that the
            environment variable GENREKERAS_CACHE names.
        crop: position of the crops of `model.clip_seconds` in each clip, as in `genrekeras.datasets.batches`.
        crops: `> 0`, number of crops.
        augment: whether the model's augmentation is applied. Each crop gets its own random numbers.
        seed: seed of random crops.
        batch_size: `> 0`.
        workers: `> 0`, number of threads that read batches. With 1, batches are not read ahead.

    Raises:
        ValueError: the backbone is not frozen, or the split does not fit the model.
        OSError: the features cannot be written to `cache_dir`.
    """
    if model.fine_tune != "head":
        raise ValueError(
            '`model.fine_tune` must be "head", because only the features of a frozen backbone can be cached. '
            f"Received: fine_tune={model.fine_tune!r}"
        )
    data = split.batches(batch_size, model.clip_seconds, crop, crops, seed, workers)
    model.check_data(data)
    cache_dir = os.path.join(io.cache_dir(), "features") if cache_dir is None else os.fspath(cache_dir)
    layers = layers_up_to_features(model, augment, split.inputs)
    path = os.path.join(cache_dir, f"{cache_key(layers, (split.fingerprint, crop, crops, seed, augment))}.npz")
    shape = (len(split) * crops, *model.feature_extractor.output_shape[1:])
    with io.process_lock(cache_dir, f"features {os.path.basename(path)[:8]}"):
        features = _read_entry(path, shape)
        if features is None:
            features = np.empty(shape, "float32")
            network = _inference_model(model, layers, augment, split.inputs)
            fill(features, data, network.predict_on_batch, f"Features of {split.name}")
            with io.atomic_write(path) as temporary:
                np.savez(temporary, features=features)
    rows = np.repeat(np.arange(len(split)), crops)
    return Features(features, split.labels[rows], split.track_ids[rows])


def fit_head(
    model: GenreClassifier,
    train: Features,
    validation: Features | None = None,
    batch_size: int = 16,
    epochs: int = 1,
    seed: int = 0,
    class_weight: Literal["balanced"] | Sequence[float] | None = None,
    **options: Any,
) -> keras.callbacks.History:
    """Train the head of a compiled model on features. The other parts of the model do not change.

    The clips have the same order as in `model.fit` on `datasets.batches(..., shuffle=True)` with the same seed. Each
    epoch uses one random variant of each clip. The optimizer of the model trains the head, so training can be continued
    after the model is saved and loaded.

    Args:
        model: compiled model with `fine_tune="head"`.
        train: features of the training split.
        validation: features of the validation split.
        batch_size: `> 0`.
        epochs: `> 0`.
        seed: seed of the order of the clips and of the choice of variants.
        class_weight: as in `genrekeras.datasets.batches`.
        options: other arguments of `genrekeras.training.fit`, such as `callbacks`, `state`, `initial_epoch` and
            `verbose`. The callback `BestCheckpoint` needs the argument `model=model`.

    Raises:
        ValueError: the model is not compiled, its backbone is not frozen, an argument is out of range, or the labels do
            not fit the model.
    """
    if model.fine_tune != "head" or not model.compiled:
        raise ValueError(
            '`model` must be compiled and have fine_tune="head". '
            f"Received: fine_tune={model.fine_tune!r}, compiled={model.compiled}"
        )
    model.check_data(None, train.labels)
    if validation is not None:
        model.check_data(None, validation.labels)
    # A separate model with the same layers is trained. If the head itself were compiled, Keras would save the shared
    # optimizer with the head, and not with the complete model.
    trainer = keras.Model(model.head.inputs, model.head.outputs)
    trainer.compile_from_config(model.get_compile_config())
    trainer.optimizer, trainer.jit_compile = model.optimizer, model.jit_compile
    model.reset_card()
    if not model.optimizer.built:
        model.optimizer.build(trainer.trainable_variables)
    data = _batches(model, train, batch_size, seed, class_weight)
    validation_data = None if validation is None else (validation.features, validation.labels)
    return fit(trainer, data, epochs, validation_data=validation_data, **options)


def _batches(model, features, batch_size, seed, class_weight):
    """Return `Batches` of (features, labels). Each epoch has one random variant of each clip."""
    num_clips = len(np.unique(features.track_ids))
    if num_clips == 0 or len(features.labels) % num_clips:
        raise ValueError(
            "`train` must contain at least one clip and the same number of variants of each clip. "
            f"Received: {len(features.labels)} rows of {num_clips} clips"
        )
    variants = len(features.labels) // num_clips
    weights = checked_weights(class_weight, types.SimpleNamespace(labels=features.labels, genres=model.genres))

    def select(rows):
        labels = features.labels[rows]
        batch = features.features[rows], labels
        return batch if weights is None else (*batch, sample_weights(label_rows(labels, len(model.genres)), weights))

    clips = grain.MapDataset.source(range(num_clips)).seed(seed).shuffle()
    rows = clips
    if variants > 1:
        rows = rows.random_map(lambda clip, rng: clip * variants + int(rng.integers(variants)))
    track_ids = clips.map(lambda clip: features.track_ids[clip * variants]).batch(batch_size)
    data = rows.batch(batch_size).map(select)
    fingerprint = {
        "features": identity.digest(*features),
        "batch_size": batch_size,
        "seed": seed,
        "class_weight": None if weights is None else weights.tolist(),
    }
    multi_label = features.labels.ndim == 2
    return Batches(
        data, model.sample_rate, model.genres, model.clip_seconds, track_ids, fingerprint, multi_label=multi_label
    )


class _AlwaysTraining(keras.layers.Layer):
    """Call a layer with `training=True`, in `predict` too, so that the layer augments its inputs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs, training=True)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def layers_up_to_features(
    model: GenreClassifier, augment: bool = False, inputs: Literal["waveform", "image"] = "waveform"
) -> list[keras.layers.Layer]:
    """Return the layers and models that compute features from `inputs`, with or without image augmentation."""
    front_end = [model.front_end] if inputs == "waveform" else []
    return [*front_end, *(_image_augmentation(model) if augment else []), model.feature_extractor]


def _inference_model(model, layers, augment, inputs):
    """Return a model that applies the layers in order. With `augment`, all layers but the last are in training mode."""
    part = model if inputs == "waveform" else model.image_model
    inputs = keras.Input(part.input_shape[1:])
    *upstream, feature_extractor = layers
    upstream = [_AlwaysTraining(layer) for layer in upstream] if augment else upstream
    return keras.Model(inputs, folding.LayerChain([*upstream, folding.for_inference(feature_extractor)])(inputs))


def _image_augmentation(model):
    """Return the augmentation layers of `model.image_model`."""
    return [
        layer
        for layer in model.image_model.layers
        if layer not in (model.feature_extractor, model.head) and not isinstance(layer, keras.layers.InputLayer)
    ]


def cache_key(layers: Sequence[keras.layers.Layer], options: Any) -> str:
    """Return a hash of everything that features depend on: layers, weights, backend and version.

    Args:
        layers: result of `layers_up_to_features`.
        options: JSON-serializable description of the clips.

    The states of random layers change in each call. `layer.weights` does not contain them.
    """
    configs = [identity.class_and_config(layer) for layer in layers]
    description = [options, configs, keras.backend.backend(), __version__]
    weights = [keras.ops.convert_to_numpy(weight) for layer in layers for weight in layer.weights]
    return hashlib.sha256(f"{json.dumps(description)}{identity.digest(*weights)}".encode()).hexdigest()[:32]


def _read_entry(path, shape):
    """Return the features in a cache entry. Return `None` if the entry is missing, damaged or of another shape."""
    try:
        features = io.read_arrays(path)["features"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        print_message(f"The features in {path} are computed again, because the file cannot be read: {error}")
        return None
    if features.shape != shape or features.dtype != np.float32:
        print_message(
            f"The features in {path} are computed again, because they have the shape {features.shape} and the dtype "
            f"{features.dtype} instead of {shape} and float32."
        )
        return None
    return features
