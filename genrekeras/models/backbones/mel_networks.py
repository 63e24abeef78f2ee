"""Small networks made for spectrograms, which look along the mel axis and then ask what is typical over time.

Neighbouring columns of an image may lie a quarter of a second apart (`UniformTemporalSubsample`), so that there is little to see
between them; what tells genres apart is which spectra there are, and how they vary. `mel_cnn` convolves along mels, and
but at its end along time; `mel_resnet` along both. Either adds fixed statistics of the cepstra, of which the covariance
matters most. `mel_kernel` is no network but a kernel machine over more such statistics: it is not trained but fitted,
in a minute or two (`genrekeras.training.kernel_ridge.fit`).

Sources: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018 (pooling of statistics);
Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018.
"""

import keras
from genrekeras.layers.pooling import AttentiveStatisticsPooling
from genrekeras.layers.statistics import CepstralStatistics
from genrekeras.layers.temporal import RandomTemporalCrop, RandomTemporalSubsample
from genrekeras.models.backbones.data_format import CHANNEL_AXIS, DATA_FORMAT
from genrekeras.models.backbones.torch_batch_norm import FusedBatchNormalization

_HEADS, _ATTENTION_UNITS = 4, 64
_SPARSE = 128  # frames of a clip, at the most, that are taken to be sampled from it


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
    x = _scaled(RandomTemporalCrop(window, name=f"{name}_window")(image), name)
    for number, (filters, size, frames) in enumerate(((1, 7, 1), (2, 5, 1), (3, 5, 1), (4, 3, 3)), 1):
        x = _convolution(x, filters * width, (size, frames), (2, 1), f"{name}_conv{number}")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pooled = AttentiveStatisticsPooling(heads=_HEADS, units=_ATTENTION_UNITS, name=f"{name}_pool")(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


def mel_resnet(image, name="mel_resnet", width=16, frames=0.5, units=256):
    """Residual blocks along mels and time, 0.7 million weights.

    Args:
        image, name, width, units: as of `mel_cnn`.
        frames: share of the frames; in training it sees so many. Of 128 at the most, which `UniformTemporalSubsample` made, by
            lot, in their order; of more, neighbours: what changes from one to the next is as it is in inference.

    Returns:
        Keras tensor, `(batch, units)`.
    """
    columns = RandomTemporalSubsample if image.shape[2] <= _SPARSE else RandomTemporalCrop
    image = columns(frames, name=f"{name}_frames")(image)
    x = _convolution(_scaled(image, name), width, (7, 3), (2, 1), f"{name}_conv1")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool1")(x)
    x = _residual(x, 2 * width, f"{name}_block1")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool2")(x)
    x = _residual(x, 4 * width, f"{name}_block2")
    x = keras.layers.MaxPooling2D(2, data_format=DATA_FORMAT, name=f"{name}_pool3")(x)
    x = _residual(x, 6 * width, f"{name}_block3")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pool = AttentiveStatisticsPooling(heads=_HEADS, units=_ATTENTION_UNITS, maximum=True, name=f"{name}_pool")
    pooled = pool(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


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
    x = FusedBatchNormalization(CHANNEL_AXIS, name=f"{name}_bn")(x)
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
    x = FusedBatchNormalization(name=f"{name}_all_bn")(x)
    x = keras.layers.Dropout(0.3, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(units, name=f"{name}_dense")(x)
    x = FusedBatchNormalization(name=f"{name}_dense_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_features")(x)


def _extents(x):
    return x.shape[1:3] if CHANNEL_AXIS == 3 else x.shape[2:4]
