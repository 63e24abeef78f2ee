"""GenreClassifier, a Keras model that computes the probabilities of genres from waveforms."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from genrekeras.genres import GENRES
from genrekeras.layers import MelSpectrogram
from genrekeras.layers.ood_score import OODScore
from genrekeras.models import arguments, backbones, folding
from genrekeras.models.presets import preset_file
from genrekeras.models.thresholds import Thresholds
from genrekeras.models.track_classifier import OutputName, TrackClassifier
from genrekeras.utils.io import StrPath

# Used for networks that are trained from random weights. With Keras' default of 0.99, the moving statistics would lag
# hundreds of steps behind the weights.
_MOMENTUM_FROM_SCRATCH = 0.9


class _Restored(NamedTuple):
    """Argument `pretrained` of a saved model. The config keeps the value, but no pretrained weights are loaded."""

    pretrained: str | None


@keras.saving.register_keras_serializable("genrekeras")
class GenreClassifier(TrackClassifier, keras.Model):
    """Classify clips of music by genre.

    The model consists of parts, which are attributes of the model. Each part is a `keras.Model`, except `ood_score`,
    which is a layer. The parts share their weights with the model:

    - `front_end`: waveform -> image. It includes the waveform augmentation.
    - `feature_extractor`: image -> features. This is the backbone.
    - `head`: features -> probabilities. It consists of dropout and a dense layer.
    - `image_model`: image -> probabilities. It consists of image augmentation, `feature_extractor` and `head`.
    - `ood_score`: features -> out-of-distribution score. `genrekeras.evaluation.calibrate` fits it.

    The arguments `backbone`, `genres`, `clip_seconds`, `stem`, `fine_tune`, `pretrained`, `dropout`, `multi_label`,
    `thresholds` and `card` are attributes too. `fine_tune`, `thresholds` and `card` can be changed by assigning a new
    value.

    Args:
        backbone: network that computes the features. `"efficientnet_b0"`, `"resnet50"` and `"efficientnet_lite0"`
            (smaller and faster) have pretrained weights. `"mel_cnn"` and `"mel_resnet"` are small networks for
            spectrograms without pretrained weights. `"musicnn"` has weights that were trained on music. A list of
            `"mel_..."` names or of `"musicnn"` is an average of several networks (see `genrekeras.models.average`).
        genres: list or tuple of at least two distinct names. The label of a genre is its index.
        clip_seconds: `> 0`, in s, length of a clip. `None` is that of the backbone: 3.008 s for `"musicnn"`, otherwise
            10 s.
        front_end: layers that compute images `(batch, mels, frames, 1)` from waveforms `(batch, samples)`. The images
            must be in the range that the backbone processes, which is `image_range`. One layer must be a
            `MelSpectrogram`, which defines the sample rate. `None` is the front end of the backbone. For `"musicnn"`,
            it computes logarithms at 16 kHz. Otherwise, it is `genrekeras.layers.default_front_end()`:
            `MelSpectrogram`, `PowerToDecibels`, `SpectrogramToImage`.
        stem: first convolution of a backbone with pretrained weights. `"fold"` converts the convolution to one channel.
            The result is the same as for the gray image in three equal channels. `"new"` is a new convolution with
            random weights. Not possible for `"musicnn"`, whose convolutions have one channel.
        fine_tune: which layers are trainable: `"head"` (the last layer), `"stem"` (the first convolution, or the five
            first ones of `"musicnn"`, and the last layer) or `"all"`. It is saved with the model.
        pretrained: `"imagenet"`, `None` for random weights, or the path of a `.weights.h5` file. The file must be saved
            from the RGB network, built with `weights=None, include_top=False` (see `genrekeras.models.backbones`). For
            `"musicnn"`, `"msd"` (trained on the Million Song Dataset), `"mtt"` (trained on MagnaTagATune), `None`, or
            the path of a file that was saved from `feature_extractor`. With `"msd"` and `"mtt"`, `front_end` and
            `clip_seconds` must give the images of the backbone's own front end.
        dropout: in [0, 1), rate of the dropout before the last layer.
        multi_label: whether a clip can have several genres. The probabilities of the genres are then independent of
            each other (a sigmoid instead of a softmax). Train with the loss `"binary_crossentropy"` and labels
            `(batch, len(genres))` in [0, 1].
        waveform_augmentation: layers that change waveforms `(batch, samples)` in training. The shape stays the same.
        image_augmentation: layers that change images `(batch, mels, frames, 1)` in training. The shape stays the same.
        thresholds: limits that decide whether a prediction has low confidence, or a dict of the attributes of
            `Thresholds`. `genrekeras.evaluation.calibrate` sets them. `None` for no thresholds.
        card: JSON-serializable description of the model, with the keys `data`, `training`, `scores` and `calibration`.
            It is saved with the model. `fit` removes card and thresholds, because they describe the weights before the
            training. Call `model.reset_card()` after the training of a part, such as `image_model`.
        name: name of the Keras model. `None` uses an automatic name.

    Attributes:
        sample_rate: in Hz, sample rate of the front end.
        output_layer: the last layer of `head`.
        image_range: lowest and highest value of images that the backbone processes.
        band_frequencies: `(mels,)`, in Hz, center frequency of each row of the image.

    Input shape: `(batch, clip_seconds * sample_rate)` float32 in [-1, 1].

    Output shape: `(batch, len(genres))` float32. Rows sum to 1, unless `multi_label` is true.

    Raises:
        ValueError: an argument is unknown or out of range. A waveform has a wrong rank or length. Labels are out of
            range or have a wrong shape. Data has another sample rate or other genres than the model.
        genrekeras.models.backbones.PretrainedWeightsError: the pretrained weights are not available.

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
        backbone: str | Sequence[str] = "efficientnet_b0",
        genres: Sequence[str] = GENRES,
        clip_seconds: float | None = None,
        front_end: Sequence[keras.layers.Layer] | keras.Sequential | None = None,
        stem: Literal["fold", "new"] = "fold",
        fine_tune: Literal["head", "stem", "all"] = "head",
        pretrained: StrPath | None = "imagenet",
        dropout: float = 0.5,
        multi_label: bool = False,
        waveform_augmentation: Sequence[keras.layers.Layer] = (),
        image_augmentation: Sequence[keras.layers.Layer] = (),
        thresholds: Thresholds | Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        genres, row = arguments.checked_genres(genres), backbones.get(backbone)
        restored = isinstance(pretrained, _Restored)
        if isinstance(pretrained, _Restored):
            [pretrained] = pretrained
        backbones.check_stem(backbone, stem)
        if stem == "new" and fine_tune == "head":
            raise ValueError(
                '`fine_tune` must be "stem" or "all" with `stem="new"`, because a new stem has random weights and must '
                f"be trained. Received: stem={stem!r}, fine_tune={fine_tune!r}"
            )
        if not arguments.is_number(dropout) or not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1). Received: dropout={dropout}")
        clip_seconds = row.front_end.clip_seconds if clip_seconds is None else clip_seconds
        if not arguments.is_number(clip_seconds) or not clip_seconds > 0:
            raise ValueError(f"`clip_seconds` must be a number > 0. Received: clip_seconds={clip_seconds!r}")
        if not isinstance(multi_label, bool):
            raise ValueError(f"`multi_label` must be True or False. Received: multi_label={multi_label!r}")
        if pretrained is not None:
            if not isinstance(pretrained, (str, os.PathLike)):
                raise ValueError(
                    f"`pretrained` must be the name of weights, None or a path. Received: pretrained={pretrained!r}"
                )
            pretrained = os.fspath(pretrained)
        elif fine_tune == "head" and not restored:
            warnings.warn(
                'With `pretrained=None, fine_tune="head"`, the backbone has random weights and is frozen. The last '
                "layer will be trained on random features.",
                stacklevel=2,
            )
        front_end_layers = row.front_end.layers() if front_end is None else arguments.as_layers("front_end", front_end)
        waveform_augmentation = arguments.as_layers("waveform_augmentation", waveform_augmentation)
        image_augmentation = arguments.as_layers("image_augmentation", image_augmentation)
        arguments.check_image_augmentation(image_augmentation, backbone)
        sample_rate = arguments.sample_rate_of(front_end_layers)
        if not restored and pretrained is not None and pretrained in backbones.presets_of(backbone):
            backbones.check_front_end(row.front_end, front_end_layers, clip_seconds, pretrained)

        waveform = keras.Input((round(clip_seconds * sample_rate),), name="waveform")
        front_end_model = _chain(waveform, [*waveform_augmentation, *front_end_layers], "front_end")
        if len(front_end_model.output_shape) != 4 or front_end_model.output_shape[-1] != 1:
            raise ValueError(
                "`front_end` must compute images of shape (batch, mels, frames, 1). "
                f"Received: front_end with output shape {front_end_model.output_shape}"
            )

        momentum = _MOMENTUM_FROM_SCRATCH if pretrained is None else None
        image_shape = front_end_model.output_shape[1:]
        feature_extractor = backbones.FeatureExtractor(backbone, image_shape, stem, fine_tune, momentum)
        if pretrained is not None and not restored:
            backbones.load_pretrained(feature_extractor, pretrained)

        activation = "sigmoid" if multi_label else "softmax"
        head = _chain(
            keras.Input(feature_extractor.output_shape[1:], name="features"),
            [
                keras.layers.Dropout(dropout, name="dropout"),
                keras.layers.Dense(len(genres), activation=activation, dtype="float32", name="probabilities"),
            ],
            "head",
        )
        image = keras.Input(image_shape, name="image")
        image_model = _chain(image, [*image_augmentation, feature_extractor, head], "image_model")
        super().__init__(waveform, image_model(front_end_model(waveform)), name=name)

        self.backbone: str | tuple[str, ...] = backbone if isinstance(backbone, str) else tuple(backbone)
        self.genres = tuple(genres)
        self.clip_seconds = clip_seconds
        self.stem = stem
        self.pretrained = pretrained
        self.dropout = dropout
        self.multi_label = multi_label
        self.thresholds = thresholds
        self.card = card
        self.sample_rate: int = sample_rate
        self.front_end = front_end_model
        self.feature_extractor = feature_extractor
        self.head = head
        self.image_model = image_model
        self.ood_score = OODScore(name="ood_score")
        self.ood_score.build(feature_extractor.output_shape)
        self._config_layers = {
            "front_end": front_end_layers,
            "waveform_augmentation": waveform_augmentation,
            "image_augmentation": image_augmentation,
        }

    @property
    def fine_tune(self) -> Literal["head", "stem", "all"]:
        """Which layers are trainable. Compile the model again after a change."""
        return self.feature_extractor.fine_tune

    @fine_tune.setter
    def fine_tune(self, value: Literal["head", "stem", "all"]) -> None:
        self.feature_extractor.fine_tune = value

    @property
    def output_layer(self) -> keras.layers.Dense:
        """Last layer of `head`. It computes the probabilities from the features."""
        return self.head.get_layer("probabilities")

    @property
    def image_range(self) -> tuple[float, float]:
        """Lowest and highest value of images that the backbone processes."""
        return backbones.get(self.backbone).front_end.image_range

    @property
    def band_frequencies(self) -> np.ndarray:
        """Center frequency of each row of the image: `(mels,)`, in Hz."""
        front_end = self._config_layers["front_end"]
        [spectrogram] = [layer for layer in front_end if isinstance(layer, MelSpectrogram)]
        is_flipped = any(getattr(layer, "flip", False) for layer in front_end)
        return spectrogram.band_frequencies[:: -1 if is_flipped else 1]

    @property
    def thresholds(self) -> Thresholds:
        """Limits for low confidence. To change them, assign a `Thresholds`, a dict of its attributes, or `None`."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, value: Thresholds | Mapping[str, Any] | None) -> None:
        try:
            value = value if isinstance(value, Thresholds) else Thresholds(**(value or {}))
        except TypeError as error:
            raise ValueError(f"`thresholds` must contain the attributes of `Thresholds` ({error})") from error
        value.check_labels(len(self.genres), self.multi_label)
        self._thresholds = value

    @property
    def card(self) -> Mapping[str, Any]:
        """Description of the model, read-only. To change it, assign a new dict."""
        return self._card

    @card.setter
    def card(self, value: Mapping[str, Any] | None) -> None:
        try:
            copy = dict(json.loads(json.dumps({} if value is None else dict(value), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`card` must be a JSON-serializable dict ({error}). Received: card={value!r}") from error
        self._card = types.MappingProxyType(copy)

    def reset_card(self) -> None:
        """Remove card and thresholds, because they do not describe the model any more after its weights change."""
        self.card = self.thresholds = None

    @property
    def input_spec(self) -> None:
        """`None`, so that Keras does not check the shape. `call` checks it and raises a clearer error."""
        return None

    def call(self, waveform, training=None, mask=None):
        self._check_waveform_shape(waveform.shape)
        return super().call(waveform, training=training, mask=mask)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.CallbackList | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Check that the data fits this model, and call `keras.Model.fit`.

        `genrekeras.datasets.Batches`, and other data with a method `fit_options`, determine the order of clips
        themselves. The argument `shuffle` has no effect on such data.
        """
        self.check_data(x, y)
        if isinstance(validation_data, (tuple, list)):
            self.check_data(*validation_data[:2])
        elif validation_data is not None:
            self.check_data(validation_data, None)
        self.reset_card()
        if hasattr(x, "fit_options"):
            options = x.fit_options(callbacks)
            callbacks, shuffle = options["callbacks"], options["shuffle"]
        return super().fit(
            x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle, *args, **kwargs
        )

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Check that the data fits this model, and call `keras.Model.evaluate`."""
        self.check_data(x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """Check that the data fits this model, and call `keras.Model.predict`."""
        self.check_data(x, None)
        return super().predict(x, *args, **kwargs)

    def for_inference(
        self,
        *outputs: OutputName,
        inputs: Literal["waveform", "image"] = "waveform",
    ) -> keras.Model:
        """Return a faster model for inference with the current weights.

        The backbone of the returned model is a copy with batch normalization folded into the convolutions. Later
        training does not change the copy. The returned model cannot be trained.

        Args:
            *outputs: what the returned model computes. The default is `"probabilities"`.
            inputs: what the returned model accepts: waveforms as this model, or images as `image_model`.

        Returns:
            Model from the inputs to the output, or to the list of outputs if there are several.
        """
        shape = {"waveform": self.input_shape, "image": self.front_end.output_shape}[inputs][1:]
        steps = [self.front_end] if inputs == "waveform" else []
        layers = {"features": None, "probabilities": self.head, "ood_score": self.ood_score}
        output_layers = [layers[name] for name in outputs or ["probabilities"]]
        x = keras.Input(shape)
        steps.append(folding.for_inference(self.feature_extractor))
        return keras.Model(x, folding.LayerChain(steps, output_layers)(x))

    def for_export(self) -> keras.Model:
        """Return a functional model with the same weights, for export to other runtimes.

        It has no augmentation. It computes the spectrogram by matrix products, without complex numbers.

        Returns:
            Model from waveforms to a list: probabilities, features, out-of-distribution score.
        """
        front_end = [
            MelSpectrogram.from_config({**layer.get_config(), "dft": "matmul"})
            if isinstance(layer, MelSpectrogram)
            else layer
            for layer in self._config_layers["front_end"]
        ]
        config = {**self.get_config(), "waveform_augmentation": [], "image_augmentation": []}
        config["front_end"] = keras.saving.serialize_keras_object(front_end)
        copy = type(self).from_config(config)
        copy.set_weights(self.get_weights())
        features = copy.feature_extractor(copy.front_end(copy.input))
        return keras.Model(copy.input, [copy.head(features), features, copy.ood_score(features)])

    def inference_function(self, *outputs: OutputName, many: bool = True) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return a function that computes outputs of the model. See `TrackClassifier`."""
        if many:
            network = self.for_inference(*outputs)
            return lambda clips: keras.tree.flatten(network.predict_on_batch(clips))

        def compute(clips):  # Keras compiles the parts of the model once.
            features = self.feature_extractor.predict(self.front_end.predict(clips, verbose=0), verbose=0)
            functions = {"probabilities": self.head, "ood_score": self.ood_score, "features": lambda x: x}
            return [keras.ops.convert_to_numpy(functions[name](features)) for name in outputs]

        return compute

    def digest(self) -> str:
        """Return a hash of the weights and of the configs of the front end."""
        digest = hashlib.sha256()
        for layer in self.front_end.layers:
            config = {key: value for key, value in layer.get_config().items() if key != "name"}
            digest.update(json.dumps(config, default=str).encode())
        for variable in self.weights:
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        return digest.hexdigest()

    @classmethod
    def from_preset(cls, name: Literal["musicnn_msd", "musicnn_mtt", "fma_small"]) -> GenreClassifier:
        """Load a trained model from the package.

        `model.card` and the command `genrekeras info` show the training data and the scores of a preset.

        Args:
            name: name of the preset. `"musicnn_msd"` and `"musicnn_mtt"` predict 50 tags each, of which a clip can have
                several. Not all tags are genres. The models were trained by the authors of musicnn, on the Million Song
                Dataset and on MagnaTagATune. They are not calibrated. `"fma_small"` predicts one of the eight genres of
                the small subset of FMA. It is for research.

        Raises:
            ValueError: there is no preset with this name.
        """
        return keras.saving.load_model(preset_file(name))

    def get_config(self):
        """Return the arguments of the constructor.

        `front_end` and `clip_seconds` are never `None`. If they were not given, the config contains those of the
        backbone. A saved model therefore stays the same if a later version has another default.
        """
        return {
            "backbone": self.backbone if isinstance(self.backbone, str) else list(self.backbone),
            "genres": list(self.genres),
            "clip_seconds": self.clip_seconds,
            "stem": self.stem,
            "fine_tune": self.fine_tune,
            "pretrained": self.pretrained,
            "dropout": self.dropout,
            "multi_label": self.multi_label,
            **{key: keras.saving.serialize_keras_object(value) for key, value in self._config_layers.items()},
            "thresholds": dataclasses.asdict(self.thresholds),
            "card": dict(self.card) or None,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Build a model with random weights. Pretrained weights are not loaded, since a model file has all weights."""
        config = dict(config)
        for key in ("front_end", "waveform_augmentation", "image_augmentation"):
            config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
        config["pretrained"] = _Restored(config["pretrained"])
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any]:
        """Return the compile config in a form that all backends can load.

        It differs from Keras' compile config in three points:

        - The optimizer is saved with its public class name. On PyTorch, Keras saves a class of that backend.
        - `jit_compile="auto"` is saved as "auto". Keras saves the value of "auto" on this backend.
        - The loss scaling of the optimizer under `mixed_float16` is saved. Keras omits it. Then the state of the
          optimizer does not fit if the model is loaded with another precision.
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

    def check_data(self, x: Any, y: Any = None) -> None:
        """Raise `ValueError` if the sample rate, the genres, the clip length or the labels do not fit this model."""
        if isinstance(x, keras.utils.PyDataset):
            for name in ("sample_rate", "genres", "clip_seconds", "multi_label"):
                value, expected = getattr(x, name, None), getattr(self, name)
                if value is not None and (tuple(value) if name == "genres" else value) != expected:
                    raise ValueError(f"The data's `{name}` is not the model's {expected}. Received: {name}={value}")
        if isinstance(x, np.ndarray):
            self._check_waveform_shape(x.shape)
        if y is not None:
            arguments.check_labels(y, len(self.genres), self.multi_label)


def _chain(x, layers, name):
    """Return a functional model that calls layers one after the other, first on the Keras tensor `x`."""
    inputs = x
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def _with_public_optimizers(config):
    """Return a config in which the backend's modules of optimizers are replaced by `keras.optimizers`."""
    if isinstance(config, list):
        return [_with_public_optimizers(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: _with_public_optimizers(value) for key, value in config.items()}
    if ".optimizers" in (config.get("module") or "") and hasattr(keras.optimizers, config.get("class_name", "")):
        config["module"] = "keras.optimizers"
    return config
