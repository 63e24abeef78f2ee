"""Features of a frozen backbone: made once for each clip, kept on disk, so that the head trains in seconds."""

import hashlib
import json
import os
from typing import NamedTuple

import grain
import keras
import numpy as np
from genrekeras import files, folding, training
from genrekeras.datasets.batches import Batches, batches, fill
from genrekeras.datasets.frames import image_batches
from genrekeras.progress import say
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


def extract(model, split, cache_dir=None, crop="start", crops=1, augment=False, seed=0, batch_size=16, workers=2):
    """Run front end and backbone once for each clip of a split, or read what an earlier call has kept.

    An entry is made anew when anything upstream of it is another (clips, labels, sample rate, front end, augmentation,
    backbone, its weights, crops, seed, backend, version of genrekeras), and when it cannot be read. Two processes do
    not make the same one at once.

    Args:
        model: `GenreClassifier` with `fine_tune="head"`: its backbone stands still.
        split: `genrekeras.datasets.Split`, or `FrameSplit`, whose images are what the front end would make.
        cache_dir: str or path-like; `None` is the folder `features` in the user's cache (or in the environment variable
            GENREKERAS_CACHE).
        crop, crops: which `model.clip_seconds` of a clip are heard, and how many variants of it, as in
            `genrekeras.datasets.batches`.
        augment: bool, with the model's augmentation, anew for each variant.
        seed: int, of random crops.
        batch_size: int > 0.
        workers: int > 0, threads that read ahead.

    Returns:
        `Features`.

    Raises:
        ValueError: the backbone is to be trained, or the split does not fit the model.
        OSError: `cache_dir` cannot be written.
    """
    if model.fine_tune != "head":
        raise ValueError(
            'Features can be kept where the backbone stands still: `model.fine_tune` must be "head". '
            f"Received: fine_tune={model.fine_tune!r}"
        )
    images = hasattr(split, "images")
    if images:
        data = image_batches(split, batch_size, seed=seed, repeats=crops)
    else:
        data = batches(split, batch_size, model.clip_seconds, crop, crops, seed=seed, workers=workers)
    model.check_data(data)
    cache_dir = os.path.join(files.cache_dir(), "features") if cache_dir is None else os.fspath(cache_dir)
    upstream = (split.fingerprint, crop, crops, seed, augment)
    path = os.path.join(cache_dir, f"{_key(model, upstream)}.npz")
    shape = (len(split) * crops, *model.feature_extractor.output_shape[1:])
    with files.one_at_a_time(cache_dir, f"features {os.path.basename(path)[:8]}"):
        features = _read(path, shape)
        if features is None:
            features = np.empty(shape, "float32")
            fill(features, data, _way(model, augment, images).predict_on_batch, f"Features of {split.name}")
            with files.whole_file(path) as temporary:
                np.savez(temporary, features=features)
    rows = np.repeat(np.arange(len(split)), crops)
    return Features(features, split.labels[rows], split.track_ids[rows])


def fit_head(model, train, validation=None, batch_size=16, epochs=1, seed=0, class_weight=None, **options):
    """Train the head of a compiled model on features; the rest of the model stands still.

    Batches come in the order in which `model.fit` would see those of `datasets.batches(..., shuffle=True)` with the
    same seed; each clip is one of its variants in an epoch, by lot. The optimizer is the model's own, so that a model
    which is saved afterwards goes on from there.

    Args:
        model: compiled `GenreClassifier` with `fine_tune="head"`.
        train, validation: `Features`, or `None` for no validation.
        batch_size: int > 0.
        epochs: int > 0.
        seed: int, of the order.
        class_weight: sequence of float, one a genre, or `None`.
        options: further ones of `genrekeras.training.fit`, such as `callbacks` (`BestCheckpoint(..., model=model)`),
            `state`, `initial_epoch`, `verbose`.

    Returns:
        `keras.callbacks.History`.
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
    model.card = None
    if not model.optimizer.built:
        model.optimizer.build(trainer.trainable_variables)
    data = _batches(model, train, batch_size, seed, class_weight)
    held_out = None if validation is None else (validation.features, validation.labels)
    return training.fit(trainer, data, epochs, validation_data=held_out, **options)


def _batches(model, features, batch_size, seed, class_weight):
    clips = len(np.unique(features.track_ids))
    if clips == 0 or len(features.labels) % clips:
        raise ValueError("`train` must hold at least one clip, and as many variants of each.")
    variants = len(features.labels) // clips
    weights = None if class_weight is None else np.asarray(class_weight, "float32")

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
    return Batches(data, model.sample_rate, model.genres, model.clip_seconds, track_ids)


class _AsInTraining(keras.layers.Layer):
    """A layer that augments in `predict` too: Keras tells all layers that say `training` that there is none."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs, training=True)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def _way(model, augment, images):
    """A model, waveform or image -> features."""
    inputs = keras.Input((model.image_model if images else model).input_shape[1:])
    steps = [] if images else [model.front_end]
    if augment:
        steps = [_AsInTraining(step) for step in [*steps, *_image_augmentation(model)]]
    return keras.Model(inputs, folding.Way([*steps, folding.for_inference(model.feature_extractor)])(inputs))


def _image_augmentation(model):
    parts = (model.feature_extractor, model.head)
    return [
        layer
        for layer in model.image_model.layers
        if layer not in parts and not isinstance(layer, keras.layers.InputLayer)
    ]


def _key(model, upstream):
    """A name that changes with all that features depend on."""
    layers = [*model.front_end.layers, *_image_augmentation(model)]
    configs = [(type(layer).__name__, {k: v for k, v in layer.get_config().items() if k != "name"}) for layer in layers]
    network = model.backbone, model.stem, model.feature_extractor.layers[-1].compute_dtype, keras.backend.backend()
    content = hashlib.sha256(json.dumps([upstream, configs, network, __version__], default=str).encode())
    for variable in model.feature_extractor.variables:
        content.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return content.hexdigest()[:32]


def _read(path, shape):
    """The features in an entry, or `None` if there is none that is whole."""
    try:
        features = files.read_arrays(path)["features"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        say(f"{path} cannot be read ({error}): made anew.")
        return None
    if features.shape != shape or features.dtype != np.float32:
        say(f"{path} holds something else: made anew.")
        return None
    return features
