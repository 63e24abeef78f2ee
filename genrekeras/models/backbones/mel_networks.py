"""Small convolutional networks for spectrograms: convolutions along the mel axis, then statistics over time.

Successive frames of an image may be a quarter of a second apart (`UniformTemporalSubsample`), so their order contains
little information. Genres differ in their spectra and in how the spectra vary over time. `mel_cnn` convolves along
mels, and in its last block also along time. `mel_resnet` convolves along both axes. Both networks also use statistics
of the cepstral coefficients that are not trained (`CepstralStatistics`). Among these, the covariance contributes most.

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
_MAX_SUBSAMPLED_FRAMES = 128  # Images with at most this number of frames are taken to be temporally subsampled.


def mel_cnn(
    image: keras.KerasTensor, name: str = "mel_cnn", width: int = 32, window: float = 0.375, units: int = 256
) -> keras.KerasTensor:
    """Build a network of convolutions along mels. It has 0.9 million weights.

    Args:
        image: `(batch, mels, frames, 1)` in [0, 255].
        name: prefix of the names of the layers.
        width: `> 0`, number of filters of the first convolution.
        window: in (0, 1], share of the frames that the convolutions process in training. The frames are a random crop.
        units: `> 0`, number of features.

    Returns:
        `(batch, units)`.
    """
    x = _scaled(RandomTemporalCrop(window, name=f"{name}_window")(image), name)
    for number, (filters, size, frames) in enumerate(((1, 7, 1), (2, 5, 1), (3, 5, 1), (4, 3, 3)), 1):
        x = _convolution(x, filters * width, (size, frames), (2, 1), f"{name}_conv{number}")
    x = _convolution(x, 8 * width, (_extents(x)[0], 1), 1, f"{name}_mels", pad=False)
    pooled = AttentiveStatisticsPooling(heads=_HEADS, units=_ATTENTION_UNITS, name=f"{name}_pool")(_over_time(x, name))
    return _features([pooled, CepstralStatistics(name=f"{name}_cepstra")(image)], units, name)


def mel_resnet(
    image: keras.KerasTensor, name: str = "mel_resnet", width: int = 16, frames: float = 0.5, units: int = 256
) -> keras.KerasTensor:
    """Build a network of residual blocks along mels and time. It has 0.7 million weights.

    Args:
        image: as in `mel_cnn`.
        name: as in `mel_cnn`.
        width: as in `mel_cnn`.
        frames: in (0, 1], share of the frames that are processed in training. Images with at most 128 frames are taken
            to be temporally subsampled, and random frames are selected. From longer images a random crop is selected.
            It keeps the differences between successive frames as they are in inference.
        units: as in `mel_cnn`.

    Returns:
        `(batch, units)`.
    """
    layer_class = RandomTemporalSubsample if image.shape[2] <= _MAX_SUBSAMPLED_FRAMES else RandomTemporalCrop
    image = layer_class(frames, name=f"{name}_frames")(image)
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
    """Rescale an image to [-1.8, 2.2], and convert it to the data format of the convolutions."""
    x = keras.layers.Rescaling(4 / 255, -1.8, name=f"{name}_scale", dtype="float32")(image)
    return x if CHANNEL_AXIS == 3 else keras.layers.Permute((3, 1, 2), name=f"{name}_first")(x)


def _convolution(x, filters, size, strides, name, pad=True, activation=True):
    """Apply a convolution with symmetric padding, batch normalization and, optionally, ReLU."""
    if pad and max(size) > 1:
        padding = (size[0] // 2, size[1] // 2)
        x = keras.layers.ZeroPadding2D(padding, data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(filters, size, strides, "valid", DATA_FORMAT, use_bias=False, name=name)(x)
    x = FusedBatchNormalization(CHANNEL_AXIS, name=f"{name}_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x) if activation else x


def _residual(x, filters, name):
    """Apply a residual block: two convolutions, and a 1x1 convolution as the shortcut."""
    y = _convolution(x, filters, (3, 3), 1, f"{name}_conv1")
    y = _convolution(y, filters, (3, 3), 1, f"{name}_conv2", activation=False)
    x = _convolution(x, filters, (1, 1), 1, f"{name}_shortcut", activation=False)
    return keras.layers.Activation("relu", name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _over_time(x, name):
    """Reshape an image with one row to `(batch, frames, channels)`."""
    if CHANNEL_AXIS == 1:
        x = keras.layers.Permute((2, 3, 1), name=f"{name}_permute")(x)
    return keras.layers.Reshape((-1, x.shape[-1]), name=f"{name}_time")(x)


def _features(parts, units, name):
    """Concatenate statistics, and compute the features by a dense layer between two batch normalizations."""
    x = keras.layers.Concatenate(name=f"{name}_all")(parts)
    x = FusedBatchNormalization(name=f"{name}_all_bn")(x)
    x = keras.layers.Dropout(0.3, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(units, name=f"{name}_dense")(x)
    x = FusedBatchNormalization(name=f"{name}_dense_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_features")(x)


def _extents(x):
    """Return the number of rows and the number of columns of an image."""
    return x.shape[1:3] if CHANNEL_AXIS == 3 else x.shape[2:4]
