"""GenreClassifier: a waveform in, probabilities out, and everything between them inside one `.keras` file."""

import json
import math
import os
import types
import warnings
from typing import NamedTuple

import keras
import numpy as np
from genrekeras import backbones, folding
from genrekeras.genres import GENRES
from genrekeras.layers import default_front_end
from genrekeras.strangeness import Strangeness
from keras import ops

# With Keras' 0.99, moving statistics of a network that is trained from random weights lag hundreds of steps behind it.
_MOMENTUM_FROM_SCRATCH = 0.9
_MOST_GENRES = 10_000


class _Restored(NamedTuple):
    """Argument `pretrained` of a saved model: kept in the config, but not loaded, since the file holds all weights."""

    pretrained: object


@keras.saving.register_keras_serializable("genrekeras")
class GenreClassifier(keras.Model):
    """Tells the genre of a clip of music.

    The model consists of public parts, each a `keras.Model`, that share their weights with it:

    - `front_end`: waveform -> image, with the waveform augmentation before it;
    - `feature_extractor`: image -> features, the backbone;
    - `head`: features -> probabilities, dropout and a dense layer;
    - `image_model`: image -> probabilities, the image augmentation, `feature_extractor` and `head`;
    - `strangeness`, a layer: features -> how unlike known music they are, since `genrekeras.evaluation.calibrate`.

    Args:
        backbone: str, `"efficientnet_b0"`, `"resnet50"` or `"efficientnet_lite0"` (smaller and faster); or, small
            networks made for spectrograms, which have no pretrained weights, `"mel_cnn"` or `"mel_resnet"`; or
            `"mel_kernel"`, which is fitted at once (`genrekeras.kernel_machine.fit`); or a list of several of these
            (see `genrekeras.ensemble.join`).
        genres: list or tuple of distinct str, at least two; the label of a genre is its index.
        clip_seconds: float > 0, length of the clips that the model hears.
        front_end: sequence of layers (or a `keras.Sequential`), waveform `(batch, samples)` -> image
            `(batch, mels, frames, 1)` in [0, 255], one of them a `MelSpectrogram`, which knows the sample rate; `None`
            is `genrekeras.layers.default_front_end()`, a `MelSpectrogram`, `PowerToDecibels`, `SpectrogramToImage`.
        stem: `"fold"`, the backbone's own first convolution folded to one channel, which equals feeding it the gray
            image as three equal channels; or `"new"`, a fresh one.
        fine_tune: what is trained: `"head"`, the last layer; `"stem"`, the first convolution and the last layer;
            `"all"`. May be changed later by assigning `model.fine_tune`; the saved model remembers it.
        pretrained: `"imagenet"`, `None` (random weights), or the path of a `.weights.h5` file that was saved from the
            RGB network (`genrekeras.backbones`) built with `weights=None, include_top=False`.
        dropout: float in [0, 1), before the last layer.
        waveform_augmentation: sequence of layers, `(batch, samples)` -> same shape, active in training.
        image_augmentation: sequence of layers, `(batch, mels, frames, 1)` -> same shape, active in training.
        card: dict of what JSON can hold, what is to be known of the model: `data` and `training` (what it was trained
            on, and how), `scores`, `calibration` (with `unsure_below` and `strange_above`, the probability below
            which and the strangeness above which a track is marked unsure). It is saved with the model. `fit` empties
            it, since what it says is then no longer true; after a part was trained by itself, empty it by hand.

    Attributes:
        genres, clip_seconds, backbone, ...: the arguments. `card` may be set anew, as a whole.
        sample_rate: int, in Hz, from the front end.
        front_end, feature_extractor, head, image_model, strangeness: the parts.

    Input shape: `(batch, clip_seconds * sample_rate)` float32 in [-1, 1].

    Output shape: `(batch, len(genres))` float32, rows sum to 1.

    Raises:
        ValueError: an argument is unknown or out of range; a waveform has another rank or length; labels are out of
            range; data has another sample rate or other genres.
        genrekeras.backbones.PretrainedWeightsError: the pretrained weights cannot be had.

    Example:

    >>> model = GenreClassifier(pretrained=None, fine_tune="all", clip_seconds=1.0)
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> waveforms, labels = np.random.uniform(-1, 1, (8, 22050)).astype("float32"), np.arange(8)
    >>> history = model.fit(waveforms, labels, verbose=0)
    >>> model.predict(waveforms, verbose=0).shape
    (8, 8)
    """

    def __init__(
        self,
        backbone="efficientnet_b0",
        genres=GENRES,
        clip_seconds=10.0,
        front_end=None,
        stem="fold",
        fine_tune="head",
        pretrained="imagenet",
        dropout=0.5,
        waveform_augmentation=(),
        image_augmentation=(),
        card=None,
        name=None,
    ):
        genres = _checked_genres(genres)
        restored = isinstance(pretrained, _Restored)
        if restored:
            [pretrained] = pretrained
        if stem == "new" and fine_tune == "head":
            raise ValueError(
                'A new stem has random weights and must be trained: `stem="new"` needs `fine_tune="stem"` or "all". '
                f"Received: stem={stem!r}, fine_tune={fine_tune!r}"
            )
        if not _is_number(dropout) or not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1). Received: dropout={dropout}")
        if not _is_number(clip_seconds) or not clip_seconds > 0:
            raise ValueError(f"`clip_seconds` must be a number > 0. Received: clip_seconds={clip_seconds!r}")
        if pretrained is not None:
            if not isinstance(pretrained, (str, os.PathLike)):
                raise ValueError(
                    f'`pretrained` must be "imagenet", None or a path. Received: pretrained={pretrained!r}'
                )
            pretrained = os.fspath(pretrained)
        elif fine_tune == "head" and not restored:
            warnings.warn(
                'The backbone has random weights and is frozen: `pretrained=None, fine_tune="head"` trains the last '
                "layer on random features.",
                stacklevel=2,
            )
        front_end_layers = default_front_end() if front_end is None else _as_layers("front_end", front_end)
        waveform_augmentation = _as_layers("waveform_augmentation", waveform_augmentation)
        image_augmentation = _as_layers("image_augmentation", image_augmentation)
        sample_rate = _sample_rate(front_end_layers)

        waveform = keras.Input((round(clip_seconds * sample_rate),), name="waveform")
        front_end_model = _chain(waveform, waveform_augmentation + front_end_layers, "front_end")
        if len(front_end_model.output_shape) != 4 or front_end_model.output_shape[-1] != 1:
            raise ValueError(
                "`front_end` must end in images of shape (batch, mels, frames, 1). "
                f"Received: front_end with output shape {front_end_model.output_shape}"
            )

        momentum = _MOMENTUM_FROM_SCRATCH if pretrained is None else None
        image_shape = front_end_model.output_shape[1:]
        feature_extractor = backbones.FeatureExtractor(backbone, image_shape, stem, fine_tune, momentum)
        if pretrained is not None and not restored:
            backbones.load_pretrained(feature_extractor, pretrained)

        head = _chain(
            keras.Input(feature_extractor.output_shape[1:], name="features"),
            [
                keras.layers.Dropout(dropout, name="dropout"),
                keras.layers.Dense(len(genres), activation="softmax", dtype="float32", name="probabilities"),
            ],
            "head",
        )
        image = keras.Input(image_shape, name="image")
        image_model = _chain(image, [*image_augmentation, feature_extractor, head], "image_model")
        super().__init__(waveform, image_model(front_end_model(waveform)), name=name)

        self.backbone = backbone if isinstance(backbone, str) else tuple(backbone)
        self.genres = genres
        self.clip_seconds = clip_seconds
        self.stem = stem
        self.pretrained = pretrained
        self.dropout = dropout
        self.card = card
        self.sample_rate = sample_rate
        self.front_end = front_end_model
        self.feature_extractor = feature_extractor
        self.head = head
        self.image_model = image_model
        self.strangeness = Strangeness(name="strangeness")
        self.strangeness.build(feature_extractor.output_shape)
        self._config_layers = {
            "front_end": front_end_layers,
            "waveform_augmentation": waveform_augmentation,
            "image_augmentation": image_augmentation,
        }

    @property
    def fine_tune(self):
        """What is trained. After a change, for example from "head" to "all" for a second phase, compile again."""
        return self.feature_extractor.fine_tune

    @fine_tune.setter
    def fine_tune(self, value):
        self.feature_extractor.fine_tune = value

    @property
    def card(self):
        """What is to be known of the model; read only, but may be set anew."""
        return self._card

    @card.setter
    def card(self, value):
        try:
            copy = dict(json.loads(json.dumps({} if value is None else dict(value), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`card` must be a dict of what JSON can hold ({error}). Received: card={value!r}"
            ) from error
        self._card = types.MappingProxyType(copy)

    @property
    def input_spec(self):
        """None: `call` says more about a wrong shape than Keras would."""
        return None

    def call(self, waveform, training=None, mask=None):
        self._check_waveform_shape(waveform.shape)
        return super().call(waveform, training=training, mask=mask)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        *args,
        **kwargs,
    ):
        """As `keras.Model.fit`; data that does not belong to this model is refused before the first step.

        `genrekeras.datasets.Batches` keep the order of their seed and of the epoch, also after `initial_epoch`.
        """
        self.check_data(x, y)
        if isinstance(validation_data, (tuple, list)):
            self.check_data(*validation_data[:2])
        elif validation_data is not None:
            self.check_data(validation_data, None)
        self.card = None
        if isinstance(x, keras.utils.PyDataset) and hasattr(x, "epoch"):
            shuffle = False  # Keras would shuffle the batches, from Python's global random state
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.append(FollowEpoch(x))
            else:
                callbacks = [*keras.tree.flatten(callbacks or []), FollowEpoch(x)]
        return super().fit(
            x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle, *args, **kwargs
        )

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; data that does not belong to this model is refused."""
        self.check_data(x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`; data that does not belong to this model is refused."""
        self.check_data(x, None)
        return super().predict(x, *args, **kwargs)

    def for_inference(self, *outputs, images=False):
        """A `keras.Model`, waveform -> probabilities, that computes the same as this one does now, faster.

        Its backbone is a copy with BatchNorm folded into the convolutions; it cannot be trained, and does not follow
        when this model is.

        Args:
            *outputs: str, of `"features"`, `"probabilities"` and `"strangeness"`; of several it gives a list. None
                named: the probabilities.
            images: bool, it takes images instead.
        """
        inputs = keras.Input(self.front_end.output_shape[1:] if images else self.input_shape[1:])
        steps = [] if images else [self.front_end]
        ends = {"features": None, "probabilities": self.head, "strangeness": self.strangeness}
        ends = [ends[name] for name in outputs or ["probabilities"]]
        return keras.Model(inputs, folding.Way([*steps, folding.for_inference(self.feature_extractor)], ends)(inputs))

    def predict_files(self, paths, **options):
        """A `pandas.DataFrame` with the genre of each file; see `genrekeras.inference.predict_files`."""
        from genrekeras import inference  # brings an audio codec

        return inference.predict_files(self, paths, **options)

    def predict_timeline(self, path, **options):
        """A `pandas.DataFrame` with the genres along a track; see `genrekeras.inference.predict_timeline`."""
        from genrekeras import inference

        return inference.predict_timeline(self, path, **options)

    def embed_files(self, paths, **options):
        """Features of files, to find those that sound alike; see `genrekeras.embeddings.embed_files`."""
        from genrekeras import embeddings

        return embeddings.embed_files(self, paths, **options)

    def predict_waveform(self, y, sample_rate, **options):
        """The same for a waveform in memory, `(samples,)`; see `genrekeras.inference.predict_waveform`."""
        from genrekeras import inference

        return inference.predict_waveform(self, y, sample_rate, **options)

    @classmethod
    def from_preset(cls, name):
        """A trained model that comes with the package.

        Args:
            name: str, `"fma_small"`: the eight genres of FMA's small subset. `model.card` and `genrekeras info` tell
                what it was trained on and how good it is; it is for research.

        Raises:
            ValueError: there is none of this name.
        """
        from genrekeras.presets import preset_file

        return keras.saving.load_model(preset_file(name))

    def get_config(self):
        return {
            "backbone": self.backbone if isinstance(self.backbone, str) else list(self.backbone),
            "genres": list(self.genres),
            "clip_seconds": self.clip_seconds,
            "stem": self.stem,
            "fine_tune": self.fine_tune,
            "pretrained": self.pretrained,
            "dropout": self.dropout,
            **{key: keras.saving.serialize_keras_object(value) for key, value in self._config_layers.items()},
            "card": dict(self.card) or None,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Build a model with random weights. Pretrained weights are not loaded: the saved file holds all weights."""
        config = dict(config)
        for key in ("front_end", "waveform_augmentation", "image_augmentation"):
            config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
        config["pretrained"] = _Restored(config["pretrained"])
        return cls(**config)

    def get_compile_config(self):
        """As another backend can use it.

        On torch Keras records a class of that backend as the optimizer, which others lack: its public name is saved. It
        also records what `jit_compile="auto"` is here (on torch False): "auto" is saved, for the other to choose. And
        it leaves out that in `mixed_float16` the optimizer scales the loss: loaded in another precision, the optimizer
        would not fit its saved state.
        """
        config = super().get_compile_config()
        if config and isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            config["optimizer"] = keras.saving.serialize_keras_object(self.optimizer)
        config = _with_public_optimizers(config)
        if "jit_compile" in config and config["jit_compile"] == keras.Model(self.inputs, self.outputs).jit_compile:
            config["jit_compile"] = "auto"
        return config

    def _check_waveform_shape(self, shape):
        samples = self.input_shape[1]
        if len(shape) != 2 or shape[1] not in (None, samples):
            raise ValueError(
                f"`waveform` must have the shape (batch, {samples}): {self.clip_seconds:g} s at {self.sample_rate} Hz. "
                f"Received: shape={tuple(shape)}"
            )

    def check_data(self, x, y=None):
        """Raise `ValueError` if data does not belong to this model: sample rate, genres, length, labels."""
        if isinstance(x, keras.utils.PyDataset):
            for name in ("sample_rate", "genres", "clip_seconds"):
                theirs, ours = getattr(x, name, None), getattr(self, name)
                if theirs is not None and (tuple(theirs) if name == "genres" else theirs) != ours:
                    raise ValueError(f"The data's `{name}` is not the model's {ours}. Received: {name}={theirs}")
        if isinstance(x, np.ndarray):
            self._check_waveform_shape(x.shape)
        # Integer labels only, not one-hot rows. On jax a label out of range trains silently.
        labels = np.zeros(0) if y is None else np.asarray(ops.convert_to_numpy(y) if ops.is_tensor(y) else y)
        if labels.size and isinstance(labels.flat[0], str):
            raise ValueError(
                f"Labels must be integers, each the index of a genre in `genres`. Received: {labels.flat[0]!r}"
            )
        if labels.size and labels.dtype.kind in "iuf" and labels.shape[1:] in ((), (1,)):
            wrong = labels[(labels < 0) | (labels >= len(self.genres))]
            if len(wrong):
                raise ValueError(
                    f"Labels must lie in 0..{len(self.genres) - 1}, one for each of `genres`. "
                    f"Received: a label {wrong[0]}"
                )


class FollowEpoch(keras.callbacks.Callback):
    """Tells the data which epoch begins. Counting fails: Keras reads a batch to build a model and calls it an epoch."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_epoch_begin(self, epoch, logs=None):
        self.data.epoch = epoch


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_layers(name, layers):
    if isinstance(layers, keras.Sequential):
        return list(layers.layers)
    layers = [layers] if isinstance(layers, keras.layers.Layer) else layers
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise ValueError(f"`{name}` must be a sequence of layers. Received: {name}={layers!r}")
    return list(layers)


def _sample_rate(front_end):
    rates = {layer.sample_rate for layer in front_end if hasattr(layer, "sample_rate")}
    if len(rates) != 1:
        raise ValueError(
            f"`front_end` must hold one MelSpectrogram, which knows the sample rate. Received: {front_end}"
        )
    return rates.pop()


def _checked_genres(genres):
    names = tuple(genres) if isinstance(genres, (list, tuple)) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`genres` must be at least two distinct names. Received: genres={genres!r}")
    if len(names) > _MOST_GENRES:
        raise ValueError(f"`genres` must be at most {_MOST_GENRES} names. Received: {len(names)}")
    return names


def _chain(x, layers, name):
    inputs = x
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def _with_public_optimizers(config):
    if isinstance(config, list):
        return [_with_public_optimizers(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: _with_public_optimizers(value) for key, value in config.items()}
    if ".optimizers" in (config.get("module") or "") and hasattr(keras.optimizers, config.get("class_name", "")):
        config["module"] = "keras.optimizers"
    return config
