"""Stems with which networks for RGB images process gray images. See `genrekeras.models.backbones.registry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import keras
import numpy as np
from genrekeras.models.backbones.data_format import DATA_FORMAT, call_converted
from genrekeras.models.backbones.registry import Backbone
from keras import ops

if TYPE_CHECKING:
    from genrekeras.models.backbones.feature_extractor import FeatureExtractor


@keras.saving.register_keras_serializable("genrekeras")
class AppendConstant(keras.layers.Layer):
    """Append a channel with the constant value 255 to gray images. The stem `"fold"` needs this channel.

    Input shape: `(..., 1)`.

    Output shape: `(..., 2)`.
    """

    def call(self, image):
        return ops.concatenate([image, ops.full_like(image, 255.0)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


def call_on_gray(row: Backbone, image: keras.KerasTensor, stem: Literal["fold", "new"]) -> keras.KerasTensor:
    """Build a network for RGB images with a stem for gray images, and call it.

    Args:
        row: row of the network in the table `BACKBONES`.
        image: `(batch, mels, frames, 1)`.
        stem: see `genrekeras.models.backbones.registry`.

    Returns:
        `(batch, features)`.
    """
    if stem == "fold":
        x = AppendConstant()(image)
    else:
        x = keras.layers.Rescaling(row.new_stem_scale, row.new_stem_offset)(image)
    # Functions of `keras.applications` build networks in the global data format of Keras.
    height, width, channels = x.shape[1:]
    last = keras.config.image_data_format() == "channels_last"
    inputs = keras.Input((height, width, channels) if last else (channels, height, width))
    network = row.constructor(include_top=False, weights=None, input_tensor=inputs, pooling="avg")
    if DATA_FORMAT == "channels_first":
        x = keras.layers.Permute((3, 1, 2))(x)  # The result is a view, so the image is not copied.
    return call_converted(network, x)


def fold_stem(network: FeatureExtractor, rgb: keras.Model, backbone: Backbone) -> None:
    """Set the stem weights of a gray network such that its stem is equivalent to the stem of the RGB network.

    Args:
        network: a network with `stem="fold"`.
        rgb: the RGB network.
        backbone: row of both networks in the table `BACKBONES`.
    """
    factor, offset = _measure_stem_input(rgb, backbone, channels=3)  # of the channels r, g, b
    (scale, _), (_, constant) = _measure_stem_input(network, backbone, channels=1)  # of the gray value and the constant
    kernel, *bias = rgb.get_layer(backbone.stem).get_weights()  # (height, width, 3, filters)
    gray = np.einsum("hwcf,c->hwf", kernel, factor / scale)
    constant = np.einsum("hwcf,c->hwf", kernel, offset / constant)
    network.get_layer(backbone.stem).set_weights([np.stack([gray, constant], axis=2).astype("float32"), *bias])


def _measure_stem_input(network, backbone, channels):
    """Measure how the channels of the stem's input depend on the gray value of an image.

    Each channel is an affine function of the gray value. A black and a white image determine it.

    Returns:
        tuple of two arrays: factor and offset of each channel.
    """
    black_and_white = np.zeros((2, 32, 32, channels), "float32")
    black_and_white[1] = 255.0
    stem = network.get_layer(backbone.stem)
    probe = keras.Model(network.inputs[0], stem.input)
    if channels == 3:
        black_and_white = backbone.preprocess_input(black_and_white, data_format="channels_last")
        if stem.data_format == "channels_first":  # the RGB network is in the global data format
            black_and_white = np.moveaxis(black_and_white, -1, 1)
    else:  # The gray network accepts images of one size only.
        black_and_white = np.broadcast_to(black_and_white[:, :1, :1], (2, *network.input_shape[1:]))
    inputs = ops.convert_to_numpy(probe(black_and_white, training=False))
    if stem.data_format == "channels_first":
        inputs = np.moveaxis(inputs, 1, -1)
    black, white = inputs[:, inputs.shape[1] // 2, inputs.shape[2] // 2].astype("float64")  # the center is not padded
    return (white - black) / 255.0, black
