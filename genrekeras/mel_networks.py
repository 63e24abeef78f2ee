"""Small networks made for spectrograms, which look along the mel axis and then ask what is typical over time.

Neighbouring columns of an image may lie a quarter of a second apart (`SampleFrames`), so that there is little to see
between them; what tells genres apart is which spectra there are, and how they vary. `mel_cnn` convolves along mels, and
but at its end along time; `mel_resnet` along both. Either adds fixed statistics of the cepstra, of which the covariance
matters most. `mel_kernel` is no network but a kernel machine over more such statistics: it is not trained but fitted,
in a minute or two (`genrekeras.kernel_machine.fit`).

Sources: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018 (pooling of statistics);
Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018.
"""

import keras
from genrekeras.data_format import CHANNEL_AXIS, DATA_FORMAT, BatchNormalization
from genrekeras.statistics import CepstralStatistics, SpectralStatistics
from keras import ops

_HEADS, _ATTENTION_UNITS = 4, 64
_SPARSE = 128  # frames of a clip, at the most, that are taken to be sampled from it
LANDMARKS, DIRECTIONS = 8192, 128  # of `mel_kernel`


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
        frames: share of the frames; in training it sees so many. Of 128 at the most, which `SampleFrames` made, by
            lot, in their order; of more, neighbours: what changes from one to the next is as it is in inference.

    Returns:
        Keras tensor, `(batch, units)`.
    """
    columns = RandomFrames if image.shape[2] <= _SPARSE else RandomWindow
    image = columns(frames, name=f"{name}_frames")(image)
    x = _convolution(_scaled(image, name), width, (7, 3), (2, 1), f"{name}_conv1")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool1")(x)
    x = _residual(x, 2 * width, f"{name}_block1")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool2")(x)
    x = _residual(x, 4 * width, f"{name}_block2")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool3")(x)
    x = _residual(x, 6 * width, f"{name}_block3")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pool = TimePooling(heads=_HEADS, units=_ATTENTION_UNITS, maximum=True, name=f"{name}_pool")
    pooled = pool(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


def mel_kernel(image, name="mel_kernel"):
    """How like each of some known clips a clip is: Gaussian kernels of its statistics, 1.7 million weights.

    Args:
        image, name: as of `mel_cnn`; at least 40 mels.

    Returns:
        Keras tensor, `(batch, 8192)`, in 0..1. Until `genrekeras.kernel_machine.fit` the clips are made up.
    """
    statistics = SpectralStatistics(name=f"{name}_statistics")(image)
    weights = keras.initializers.RandomNormal(stddev=0.002 / statistics.shape[1] ** 0.5)
    # in float32 as they are: distances are small differences of large numbers
    x = keras.layers.Dense(DIRECTIONS, kernel_initializer=weights, name=f"{name}_projection", dtype="float32")(
        statistics
    )
    return GaussianKernel(LANDMARKS, name=f"{name}_landmarks")(x)


@keras.saving.register_keras_serializable("genrekeras")
class GaussianKernel(keras.layers.Layer):
    """`exp(-|x - z|^2)` of points to landmarks z, which are weights.

    Args:
        count: int > 0, landmarks.

    Input shape: `(batch, directions)`. Output shape: `(batch, count)`.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.count = count

    def build(self, input_shape):
        near = keras.initializers.RandomNormal(stddev=0.5 / input_shape[-1] ** 0.5)
        self.landmarks = self.add_weight(shape=(self.count, input_shape[-1]), initializer=near, name="landmarks")

    def call(self, x):
        squares = ops.sum(ops.square(x), axis=1, keepdims=True) + ops.sum(ops.square(self.landmarks), axis=1)
        products = ops.matmul(x, ops.transpose(self.landmarks))  # (batch, count)
        return ops.exp(-ops.maximum(squares - 2.0 * products, 0.0))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


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
        if input_shape[-1] % self.heads:
            raise ValueError(f"Channels must be a multiple of `heads`, {self.heads}. Received: {input_shape}")
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


def _scaled(image, name):
    """About -1.8..2.2; in the order of axes that convolutions are built for."""
    x = keras.layers.Rescaling(4 / 255, -1.8, name=f"{name}_scale", dtype="float32")(image)
    return x if CHANNEL_AXIS == 3 else keras.layers.Permute((3, 1, 2), name=f"{name}_first")(x)


def _convolution(x, filters, size, strides, name, pad=True, activation=True):
    """Convolution, BatchNorm, ReLU; padded the same on both sides."""
    if pad and max(size) > 1:
        padding = (size[0] // 2, size[1] // 2)
        x = keras.layers.ZeroPadding2D(padding, data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(filters, size, strides, "valid", DATA_FORMAT, use_bias=False, name=name)(x)
    x = BatchNormalization(CHANNEL_AXIS, name=f"{name}_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x) if activation else x


def _residual(x, filters, name):
    y = _convolution(x, filters, (3, 3), 1, f"{name}_conv1")
    y = _convolution(y, filters, (3, 3), 1, f"{name}_conv2", activation=False)
    x = _convolution(x, filters, (1, 1), 1, f"{name}_shortcut", activation=False)
    return keras.layers.Activation("relu", name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _over_time(x, name):
    """`(batch, frames, channels)` of an image of one row."""
    if CHANNEL_AXIS == 1:
        x = keras.layers.Permute((2, 3, 1), name=f"{name}_permute")(x)
    return keras.layers.Reshape((-1, x.shape[-1]), name=f"{name}_time")(x)


def _features(parts, units, name):
    x = keras.layers.Concatenate(name=f"{name}_all")(parts)
    x = BatchNormalization(name=f"{name}_all_bn")(x)
    x = keras.layers.Dropout(0.3, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(units, name=f"{name}_dense")(x)
    x = BatchNormalization(name=f"{name}_dense_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_features")(x)


def _extents(x):
    return x.shape[1:3] if CHANNEL_AXIS == 3 else x.shape[2:4]
