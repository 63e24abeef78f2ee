"""musicnn: a network for music tagging. The shapes of its first convolutions are designed for mel spectrograms.

The first convolutions process the image in parallel. Two of them are "timbral": their kernels cover many mels and few
frames. Three are "temporal": their kernels cover one mel and many frames. The maximum over the mels is computed after
each of them. Three convolutions over time with residual connections follow. Their outputs and those of the first
convolutions are concatenated, and the maximum and the mean over time are computed.

Source: Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging", ISMIR 2019
late-breaking demo. The weights that its authors trained are in the presets `musicnn_msd` and `musicnn_mtt`. The
original orders the axes of an image as (time, mels). Its paddings, its epsilon and the order of its layers are kept.
"""

import keras
from genrekeras.layers.spectrogram import LogCompression, MelSpectrogram, SpectrogramToImage
from genrekeras.models.backbones.data_format import CHANNEL_AXIS, DATA_FORMAT
from genrekeras.models.backbones.front_end import FrontEnd
from genrekeras.models.backbones.torch_batch_norm import FusedBatchNormalization

_SAMPLE_RATE, _HOP_LENGTH, _N_FFT = 16000, 256, 512
# The original cuts windows of 187 frames out of the spectrogram of a track. A clip of this length has 187 frames,
# without padding.
_SAMPLES = 186 * _HOP_LENGTH + _N_FFT
_TIMBRAL = {"timbral1": 0.4, "timbral2": 0.7}  # name -> share of the mels that a kernel covers
_TEMPORAL = {"temporal1": 128, "temporal2": 64, "temporal3": 32}  # name -> frames that a kernel covers
FIRST_CONVOLUTIONS = (*_TIMBRAL, *_TEMPORAL)
_TIMBRAL_FILTERS, _TEMPORAL_FILTERS, _FILTERS, _WIDTH, _UNITS, _DROPOUT = 204, 51, 64, 7, 200, 0.5


def _front_end_layers():
    """Return the layers that compute the images of musicnn from waveforms."""
    return [
        MelSpectrogram(_SAMPLE_RATE, _N_FFT, _HOP_LENGTH, n_mels=96, center=False),
        LogCompression(10000.0),
        SpectrogramToImage(scale=None),
    ]


# A waveform in [-1, 1] gives values below 7, and silence gives 0.
LOG_MELS = FrontEnd(_front_end_layers, clip_seconds=_SAMPLES / _SAMPLE_RATE, image_range=(0.0, 7.0))


def musicnn(image: keras.KerasTensor, name: str = "musicnn") -> keras.KerasTensor:
    """Build the network. With 96 mels, it has 0.8 million weights.

    Args:
        image: `(batch, mels, frames, 1)`, the result of the layers of `LOG_MELS`.
        name: prefix of the names of the layers.

    Returns:
        `(batch, 200)`.
    """
    x = image if CHANNEL_AXIS == 3 else keras.layers.Permute((3, 1, 2), name=f"{name}_permute")(image)
    x = FusedBatchNormalization(CHANNEL_AXIS, name=f"{name}_bn")(x)
    mels = image.shape[1]
    parts = [
        _max_over_mels(x, _TIMBRAL_FILTERS, (int(share * mels), _WIDTH), f"{name}_{layer}")
        for layer, share in _TIMBRAL.items()
    ]
    parts += [
        _max_over_mels(x, _TEMPORAL_FILTERS, (1, frames), f"{name}_{layer}") for layer, frames in _TEMPORAL.items()
    ]
    outputs = [keras.layers.Concatenate(CHANNEL_AXIS, name=f"{name}_first")(parts)]  # one row, 561 channels
    outputs.append(_convolution(outputs[0], _FILTERS, (1, _WIDTH), f"{name}_conv1"))
    for number in (2, 3):
        x = _convolution(outputs[-1], _FILTERS, (1, _WIDTH), f"{name}_conv{number}")
        outputs.append(keras.layers.Add(name=f"{name}_add{number}")([x, outputs[-1]]))
    x = keras.layers.Concatenate(CHANNEL_AXIS, name=f"{name}_all")(outputs)  # 753 channels
    maximum = keras.layers.GlobalMaxPooling2D(DATA_FORMAT, name=f"{name}_max")(x)
    mean = keras.layers.GlobalAveragePooling2D(DATA_FORMAT, name=f"{name}_mean")(x)
    x = keras.layers.Concatenate(name=f"{name}_pool")([maximum, mean])
    x = FusedBatchNormalization(name=f"{name}_pool_bn")(x)
    x = keras.layers.Dropout(_DROPOUT, name=f"{name}_dropout")(x)
    x = keras.layers.Dense(_UNITS, activation="relu", name=f"{name}_dense")(x)
    return FusedBatchNormalization(name=f"{name}_features")(x)


def _convolution(x, filters, size, name):
    """Apply a convolution, ReLU and batch normalization. Only frames are padded, so that their number does not change.

    If the kernel covers an even number of frames, the padding has one frame more at the end, as in TensorFlow.
    """
    frames = size[1] - 1
    padding = ((0, 0), (frames // 2, frames - frames // 2))
    x = keras.layers.ZeroPadding2D(padding, data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(filters, size, data_format=DATA_FORMAT, activation="relu", name=name)(x)
    return FusedBatchNormalization(CHANNEL_AXIS, name=f"{name}_bn")(x)


def _max_over_mels(x, filters, size, name):
    """Apply a convolution, and return the maximum over the mels, as an image with one row."""
    return MaxOverMels(name=f"{name}_max")(_convolution(x, filters, size, name))


@keras.saving.register_keras_serializable("genrekeras")
class MaxOverMels(keras.layers.Layer):
    """Return the maximum over the mels of an image in `DATA_FORMAT`, as an image with one row.

    `MaxPooling2D` computes the same, but on PyTorch it takes five times as long, as long as all convolutions together.
    """

    _AXIS = 1 if CHANNEL_AXIS == 3 else 2

    def call(self, image):
        return keras.ops.max(image, axis=self._AXIS, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[: self._AXIS], 1, *input_shape[self._AXIS + 1 :])
