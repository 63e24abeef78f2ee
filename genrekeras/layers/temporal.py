"""Layers that select frames: evenly spaced frames, random frames, or a random crop."""

from typing import Any

import keras
from genrekeras.layers.base import Float32Layer, check_positive_integer
from keras import ops


@keras.saving.register_keras_serializable("genrekeras")
class UniformTemporalSubsample(Float32Layer):
    """Select evenly spaced frames.

    Frame i of the output is frame `int((i + 0.5) / num_samples * frames)` of the input. If the input has fewer than
    `num_samples` frames, frames are repeated.

    Args:
        num_samples: `> 0`, number of frames to select.

    Input shape: `(batch, mels, frames)`.

    Output shape: `(batch, mels, num_samples)`.
    """

    def __init__(self, num_samples: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive_integer("num_samples", num_samples)
        self.num_samples = num_samples
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, spectrogram):
        # Integer arithmetic gives the same result on all backends.
        count = self.num_samples
        index = (2 * ops.arange(count, dtype="int32") + 1) * ops.shape(spectrogram)[2] // (2 * count)
        if keras.backend.backend() == "torch":  # `ops.take` cannot be exported from PyTorch
            return spectrogram[:, :, index]
        return ops.take(spectrogram, index, axis=2)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.num_samples)

    def get_config(self):
        return {**super().get_config(), "num_samples": self.num_samples}


class _RandomFrames(keras.layers.Layer):
    """Base class of layers that select frames of images at random in training. Subclasses implement `draw_frames`.

    All frames are kept in inference, if the layer is frozen, or if the image has at most `count` frames.
    """

    def __init__(self, count: int | float, seed: int | None = None, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        if not 0 < count <= 1 and not (isinstance(count, int) and count > 0):
            raise ValueError(f"`count` must be an integer > 0 or a share in (0, 1]. Received: count={count!r}")
        self.count = count
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, image, training=None):
        total = image.shape[2]
        if not (training and self.trainable) or total is None:
            return image
        count = self.count if isinstance(self.count, int) else max(1, round(self.count * total))
        if total <= count:
            return image
        frames = self.draw_frames(ops.shape(image)[0], total, count)  # (batch, count)
        return ops.take_along_axis(image, frames[:, None, :, None], axis=2)

    def draw_frames(self, batch: Any, total: int, count: int) -> Any:
        """Return the indices of the selected frames, `(batch, count)`."""
        raise NotImplementedError  # pragma: no cover - abstract

    def compute_output_shape(self, input_shape):
        return input_shape  # This is the shape in inference. In training, the output may have fewer frames.

    def get_config(self):
        return {**super().get_config(), "count": self.count, "seed": self.seed}


@keras.saving.register_keras_serializable("genrekeras")
class RandomTemporalSubsample(_RandomFrames):
    """Select random frames of each image in training. The selected frames keep their order.

    Args:
        count: an integer > 0 is the number of frames to select. A float in (0, 1] is the share of the frames to select.
        seed: seed of the random numbers; `None` for a random seed.

    Input shape: `(batch, mels, frames, 1)`.

    Output shape: `(batch, mels, selected frames, 1)` in training; the input shape in inference.
    """

    def draw_frames(self, batch: Any, total: int, count: int) -> Any:
        order = ops.argsort(keras.random.uniform((batch, total), seed=self.generator), axis=1)
        return ops.sort(order[:, :count], axis=1)


@keras.saving.register_keras_serializable("genrekeras")
class RandomTemporalCrop(_RandomFrames):
    """Select consecutive frames of each image in training. The first frame is drawn at random.

    Args:
        count: an integer > 0 is the number of frames to select. A float in (0, 1] is the share of the frames to select.
        seed: seed of the random numbers; `None` for a random seed.

    Input shape: `(batch, mels, frames, 1)`.

    Output shape: `(batch, mels, selected frames, 1)` in training; the input shape in inference.
    """

    def draw_frames(self, batch: Any, total: int, count: int) -> Any:
        first = keras.random.randint((batch, 1), 0, total - count + 1, seed=self.generator)
        return first + ops.arange(count, dtype="int32")
