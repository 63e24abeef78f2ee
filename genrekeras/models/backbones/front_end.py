"""The input of a backbone: front end, length of clips, and range of images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from genrekeras.layers.augmentation import RandomLayer
from genrekeras.layers.spectrogram import default_front_end

# Entries of a config that do not change the image.
_NOT_COMPARED = ("name", "trainable", "dtype", "dft")


class FrontEnd(NamedTuple):
    """The input that a backbone is designed for.

    Attributes:
        layers: function that returns new layers, which map waveforms to images `(batch, mels, frames, 1)`.
        clip_seconds: in s, length of a clip.
        image_range: lowest and highest value of an image.
    """

    layers: Callable[[], list[keras.layers.Layer]]
    clip_seconds: float
    image_range: tuple[float, float]


GRAY_IMAGES = FrontEnd(default_front_end, clip_seconds=10.0, image_range=(0.0, 255.0))


def check_front_end(
    front_end: FrontEnd, layers: Sequence[keras.layers.Layer], clip_seconds: float, pretrained: str
) -> None:
    """Check that layers compute the images for which pretrained weights were trained.

    Layers for augmentation are ignored, because they have no effect in inference.

    Args:
        front_end: the input of the backbone.
        layers: layers of the front end to check.
        clip_seconds: in s, length of a clip.
        pretrained: name of the weights, for the messages.

    Raises:
        ValueError: a layer, an argument of a layer or the number of frames differs.
    """
    expected = front_end.layers()
    layers = [layer for layer in layers if not isinstance(layer, RandomLayer)]
    reason = f'with `pretrained="{pretrained}"`, because the weights were trained on such images'
    if [type(layer) for layer in layers] != [type(layer) for layer in expected]:
        names = [", ".join(type(layer).__name__ for layer in each) for each in (expected, layers)]
        raise ValueError(
            f"`front_end` must be the layers {names[0]} {reason}. Layers for augmentation are allowed. "
            f"Received: {names[1]}"
        )
    for layer, other in zip(expected, layers, strict=True):
        config = other.get_config()
        for name, value in layer.get_config().items():
            if name not in _NOT_COMPARED and config[name] != value:
                raise ValueError(
                    f"`{name}` of {type(layer).__name__} in `front_end` must be {value!r} {reason}. "
                    f"Received: {name}={config[name]!r}"
                )
    frames, received = (_count_frames(expected, seconds) for seconds in (front_end.clip_seconds, clip_seconds))
    if frames != received:
        raise ValueError(
            f"`clip_seconds` must give {frames} frames, as {front_end.clip_seconds:g} s do, {reason}. "
            f"Received: clip_seconds={clip_seconds:g}, which gives {received} frames"
        )


def _count_frames(layers, clip_seconds):
    """Return the number of frames of the image of a clip."""
    [sample_rate] = {layer.sample_rate for layer in layers if hasattr(layer, "sample_rate")}
    shape = (None, round(clip_seconds * sample_rate))
    for layer in layers:
        shape = layer.compute_output_shape(shape)
    return shape[2]
