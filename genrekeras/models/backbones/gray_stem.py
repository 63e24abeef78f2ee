"""Stems for one-channel images in networks for RGB images."""

import keras
import numpy as np
from genrekeras.models.backbones.data_format import DATA_FORMAT, call_converted
from keras import ops


@keras.saving.register_keras_serializable("genrekeras")
class AppendConstant(keras.layers.Layer):
    """Puts a channel of 255 beside the gray channel, `(..., 1)` -> `(..., 2)`; see the module's text."""

    def call(self, image):
        return ops.concatenate([image, ops.full_like(image, 255.0)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


def call_on_gray(row, image, stem):
    """Return the features that a network for RGB images computes from a gray image."""
    if stem == "fold":
        x = AppendConstant()(image)
    else:
        x = keras.layers.Rescaling(row.new_stem_scale, row.new_stem_offset)(image)
    # `keras.applications` builds networks in the global data format of Keras.
    height, width, channels = x.shape[1:]
    last = keras.config.image_data_format() == "channels_last"
    given = keras.Input((height, width, channels) if last else (channels, height, width))
    network = row.constructor(include_top=False, weights=None, input_tensor=given, pooling="avg")
    if DATA_FORMAT == "channels_first":
        x = keras.layers.Permute((3, 1, 2))(x)  # a view: the memory stays in the order of the image
    return call_converted(network, x)


def fold_stem(network, rgb, backbone):
    factor, offset = _stem_input(rgb, backbone, channels=3)  # of r, g, b
    (scale, _), (_, constant) = _stem_input(network, backbone, channels=1)  # of the gray value and the constant
    kernel, *bias = rgb.get_layer(backbone.stem).get_weights()  # (height, width, 3, filters)
    gray = np.einsum("hwcf,c->hwf", kernel, factor / scale)
    constant = np.einsum("hwcf,c->hwf", kernel, offset / constant)
    network.get_layer(backbone.stem).set_weights([np.stack([gray, constant], axis=2).astype("float32"), *bias])


def _stem_input(network, backbone, channels):
    """Factor and offset from a gray value to each channel that the stem sees, measured: the map is affine."""
    black_and_white = np.zeros((2, 32, 32, channels), "float32")
    black_and_white[1] = 255.0
    stem = network.get_layer(backbone.stem)
    probe = keras.Model(network.inputs[0], stem.input)
    if channels == 3:
        black_and_white = backbone.preprocess_input(black_and_white, data_format="channels_last")
        if stem.data_format == "channels_first":  # the RGB network has the global data format
            black_and_white = np.moveaxis(black_and_white, -1, 1)
    else:  # the gray network takes images of its own size only
        black_and_white = np.broadcast_to(black_and_white[:, :1, :1], (2, *network.input_shape[1:]))
    seen = ops.convert_to_numpy(probe(black_and_white, training=False))
    if stem.data_format == "channels_first":
        seen = np.moveaxis(seen, 1, -1)
    black, white = seen[:, seen.shape[1] // 2, seen.shape[2] // 2].astype("float64")  # the middle is not padding
    return (white - black) / 255.0, black
