"""Small networks made for spectrograms, which look along the mel axis and then ask what is typical over time.

Neighbouring columns of an image may lie a quarter of a second apart (`SampleFrames`), so that there is little to see
between them; what tells genres apart is which spectra there are, and how they vary. `mel_cnn` convolves along mels, and
but at its end along time; `mel_resnet` along both. Either adds fixed statistics of the cepstra, of which the covariance
matters most.

Sources: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018 (pooling of statistics);
Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018; Li et al., "Towards Faster
Training of Global Covariance Pooling Networks by Iterative Matrix Square Root Normalization", CVPR 2018.
"""

import keras
import numpy as np
import scipy.fft
from keras import ops

_CEPSTRA, _COVARIANCE_CEPSTRA = 40, 24
_HEADS, _ATTENTION_UNITS = 4, 64
_ROOT_STEPS = 20  # of Newton and Schulz, for condition numbers up to about 1e5


def mel_cnn(image, name="mel_cnn", width=32, window=0.375, units=256):
    """Convolutions along mels, 0.9 million weights.

    Args:
        image: Keras tensor, `(batch, mels, frames, 1)` in 0..255.
        name: str, what the names of its layers begin with.
        width: int > 0, filters of the first convolution.
        window: share of the frames; in training the convolutions see so many neighbours, from a place by lot.
        units: int > 0, features.

    Returns:
        Keras tensor, `(batch, units)`.
    """
    x = _scaled(RandomWindow(window, name=f"{name}_window")(image), name)
    for number, (filters, size, frames) in enumerate(((1, 7, 1), (2, 5, 1), (3, 5, 1), (4, 3, 3)), 1):
        x = _convolution(x, filters * width, (size, frames), (2, 1), f"{name}_conv{number}")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pooled = TimePooling(heads=_HEADS, units=_ATTENTION_UNITS, name=f"{name}_pool")(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


def mel_resnet(image, name="mel_resnet", width=16, frames=0.5, units=256):
    """Residual blocks along mels and time, 0.7 million weights.

    Args:
        image, name, width, units: as of `mel_cnn`.
        frames: share of the frames; in training it sees so many, by lot, in their order.

    Returns:
        Keras tensor, `(batch, units)`.
    """
    image = RandomFrames(frames, name=f"{name}_frames")(image)
    x = _convolution(_scaled(image, name), width, (7, 3), (2, 1), f"{name}_conv1")
    x = keras.layers.MaxPooling2D(2, name=f"{name}_pool1")(x)
    x = _residual(x, 2 * width, f"{name}_block1")
    x = keras.layers.MaxPooling2D(2, name=f"{name}_pool2")(x)
    x = _residual(x, 4 * width, f"{name}_block2")
    x = keras.layers.MaxPooling2D(2, name=f"{name}_pool3")(x)
    x = _residual(x, 6 * width, f"{name}_block3")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pool = TimePooling(heads=_HEADS, units=_ATTENTION_UNITS, maximum=True, name=f"{name}_pool")
    pooled = pool(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


class _RandomColumns(keras.layers.Layer):
    """Some columns of an image, in training; all of them otherwise, where it is frozen, and where there are no more."""

    def __init__(self, count, seed=None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        if not 0 < count <= 1 and not (isinstance(count, int) and count > 0):
            raise ValueError(f"`count` must be an integer > 0 or a share in (0, 1]. Received: count={count!r}")
        self.count = count
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, image, training=None):
        total = image.shape[2]
        if not (training and self.trainable) or total is None:
            return image
        count = self.count if isinstance(self.count, int) else max(1, round(self.count * total))
        if total <= count:
            return image
        columns = self.columns(ops.shape(image)[0], total, count)  # (batch, count)
        return ops.take_along_axis(image, columns[:, None, :, None], axis=2)

    def compute_output_shape(self, input_shape):
        return input_shape  # that of inference

    def get_config(self):
        return {**super().get_config(), "count": self.count, "seed": self.seed}


@keras.saving.register_keras_serializable("genrekeras")
class RandomFrames(_RandomColumns):
    """Some columns of an image by lot, in their order, for each image others; active in training.

    Args:
        count: int > 0, columns that are kept; or float in (0, 1], as a share of all.
        seed: int or `None`.

    Input shape: `(batch, mels, frames, 1)`. Output shape: the same, with `count` frames in training.
    """

    def columns(self, batch, total, count):
        order = ops.argsort(keras.random.uniform((batch, total), seed=self.generator), axis=1)
        return ops.sort(order[:, :count], axis=1)


@keras.saving.register_keras_serializable("genrekeras")
class RandomWindow(_RandomColumns):
    """Neighbouring columns of an image from a place by lot, for each image another; active in training.

    Args:
        count: int > 0, columns that are kept; or float in (0, 1], as a share of all.
        seed: int or `None`.

    Input shape: `(batch, mels, frames, 1)`. Output shape: the same, with `count` frames in training.
    """

    def columns(self, batch, total, count):
        first = keras.random.randint((batch, 1), 0, total - count + 1, seed=self.generator)
        return first + ops.arange(count, dtype="int32")


@keras.saving.register_keras_serializable("genrekeras")
class TimePooling(keras.layers.Layer):
    """What is typical over time: mean, deviation, and a mean that weighs by attention; also the maximum.

    Args:
        heads: int > 0; each weighs its own share of the channels.
        units: int > 0, of the attention's hidden layer.
        maximum: bool, the maximum too.

    Input shape: `(batch, frames, channels)`, channels a multiple of `heads`.

    Output shape: `(batch, 3 * channels)`, or 4 with the maximum.
    """

    def __init__(self, heads=4, units=64, maximum=False, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.heads = heads
        self.units = units
        self.maximum = maximum
        self.hidden = keras.layers.Dense(units, activation="tanh", name="hidden", dtype=self.dtype_policy)
        self.scores = keras.layers.Dense(heads, name="scores", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.scores.build((*input_shape[:-1], self.units))

    def call(self, x):  # (batch, frames, channels)
        mean = ops.mean(x, axis=1, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axis=1)
        weights = ops.softmax(self.scores(self.hidden(x)), axis=1)  # (batch, frames, heads)
        by_head = ops.reshape(x, (-1, x.shape[1], self.heads, x.shape[-1] // self.heads))
        attended = ops.reshape(ops.sum(weights[..., None] * by_head, axis=1), (-1, x.shape[-1]))
        pooled = [mean[:, 0], ops.sqrt(variance + 1e-4), attended]
        return ops.concatenate([*pooled, ops.max(x, axis=1)] if self.maximum else pooled, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], (4 if self.maximum else 3) * input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "units": self.units, "maximum": self.maximum}


@keras.saving.register_keras_serializable("genrekeras")
class CepstralStatistics(keras.layers.Layer):
    """Fixed statistics of the cepstra of an image over time; no gradient goes through them.

    Of 40 cepstra: mean, log deviation, the values below which a tenth, half, nine tenths and all of the frames lie, log
    mean step from frame to frame, and skewness. Of the first 24, and of their steps: the square root of the covariance
    matrix, which is to it what a deviation is to a variance.

    Input shape: `(batch, mels, frames, 1)`, 0..255 for 80 dB.

    Output shape: `(batch, 920)`; fewer of fewer than 40 mels.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def build(self, input_shape):
        cosines = (
            scipy.fft.dct(np.eye(input_shape[1]), axis=0, norm="ortho")[:_CEPSTRA] * 80 / 255
        )  # (cepstra, mels), dB
        self._cosines = cosines.astype("float32")
        upper = np.flatnonzero(np.triu(np.ones((_COVARIANCE_CEPSTRA, _COVARIANCE_CEPSTRA))))
        self._upper = np.eye(_COVARIANCE_CEPSTRA**2, dtype="float32")[:, upper]  # as a matrix: it can be exported

    def call(self, image):
        spectrum = ops.stop_gradient(image[..., 0])  # (batch, mels, frames)
        cepstra = ops.matmul(ops.convert_to_tensor(self._cosines), spectrum)
        frames = cepstra.shape[2]
        mean = ops.mean(cepstra, axis=2)
        centered = cepstra - mean[:, :, None]
        deviation = ops.sqrt(ops.maximum(ops.mean(ops.square(centered), axis=2), 1e-4))
        steps = cepstra[:, :, 1:] - cepstra[:, :, :-1]
        ordered = ops.sort(cepstra, axis=2)
        skewness = ops.mean(centered**3, axis=2) / (deviation**3 + 1e-3)
        return ops.concatenate(
            [
                mean,
                ops.log(deviation),
                *(ordered[:, :, place] for place in (frames // 10, frames // 2, 9 * frames // 10, frames - 1)),
                ops.log(ops.maximum(ops.mean(ops.abs(steps), axis=2), 1e-2)),
                skewness,
                self._root_of_covariance(cepstra),
                self._root_of_covariance(steps),
            ],
            axis=1,
        )

    def _root_of_covariance(self, values):
        """Upper triangle of the square root of the covariance of the first rows and 1, by matrix products alone."""
        values = values[:, :_COVARIANCE_CEPSTRA]
        values = values - ops.mean(values, axis=2, keepdims=True)
        identity = ops.eye(_COVARIANCE_CEPSTRA)
        covariance = ops.matmul(values, ops.transpose(values, (0, 2, 1))) / values.shape[2] + identity
        scale = ops.sqrt(ops.sum(ops.square(covariance), axis=(1, 2), keepdims=True))
        root, inverse = covariance / scale, identity
        for _ in range(_ROOT_STEPS):
            correction = 1.5 * identity - 0.5 * ops.matmul(inverse, root)
            root, inverse = ops.matmul(root, correction), ops.matmul(correction, inverse)
        root = ops.reshape(root * ops.sqrt(scale), (-1, _COVARIANCE_CEPSTRA**2))
        return ops.matmul(root, ops.convert_to_tensor(self._upper))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 8 * min(_CEPSTRA, input_shape[1]) + 2 * len(np.triu_indices(_COVARIANCE_CEPSTRA)[0]))


def _scaled(image, name):
    """About -1.8..2.2; in the order of axes that convolutions are built for."""
    x = keras.layers.Rescaling(4 / 255, -1.8, name=f"{name}_scale", dtype="float32")(image)
    return x if _channel_axis() == -1 else keras.layers.Permute((3, 1, 2), name=f"{name}_first")(x)


def _convolution(x, filters, size, strides, name, pad=True, activation=True):
    """Convolution, BatchNorm, ReLU; padded the same on both sides."""
    if pad and max(size) > 1:
        x = keras.layers.ZeroPadding2D((size[0] // 2, size[1] // 2), name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(filters, size, strides, "valid", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(_channel_axis(), name=f"{name}_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x) if activation else x


def _residual(x, filters, name):
    y = _convolution(x, filters, (3, 3), 1, f"{name}_conv1")
    y = _convolution(y, filters, (3, 3), 1, f"{name}_conv2", activation=False)
    x = _convolution(x, filters, (1, 1), 1, f"{name}_shortcut", activation=False)
    return keras.layers.Activation("relu", name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _over_time(x, name):
    """`(batch, frames, channels)` of an image of one row."""
    if _channel_axis() == 1:
        x = keras.layers.Permute((2, 3, 1), name=f"{name}_permute")(x)
    return keras.layers.Reshape((-1, x.shape[-1]), name=f"{name}_time")(x)


def _features(parts, units, name):
    x = keras.layers.Concatenate(name=f"{name}_all")(parts)
    x = keras.layers.BatchNormalization(name=f"{name}_all_bn")(x)
    x = keras.layers.Dropout(0.3, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(units, name=f"{name}_dense")(x)
    x = keras.layers.BatchNormalization(name=f"{name}_dense_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_features")(x)


def _extents(x):
    return x.shape[1:3] if _channel_axis() == -1 else x.shape[2:4]


def _channel_axis():
    return -1 if keras.config.image_data_format() == "channels_last" else 1
