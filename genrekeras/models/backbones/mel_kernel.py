"""The backbone `mel_kernel`. Its features are Gaussian kernels between the image and landmarks.

The network is a part of a kernel ridge regression. It is not trained by gradient descent:
`genrekeras.training.fit_kernel_ridge` fits it in closed form, in a minute or two.
"""

from typing import Any

import keras
from genrekeras.layers.statistics import SpectralStatistics
from keras import ops

LANDMARKS, DIRECTIONS = 8192, 128  # number of landmarks, and number of dimensions of each landmark


def mel_kernel(image: keras.KerasTensor, name: str = "mel_kernel") -> keras.KerasTensor:
    """Compute Gaussian kernels between the projected statistics of images and landmarks.

    The network has 1.7 million weights. Before `genrekeras.training.fit_kernel_ridge`, the landmarks are random.

    Args:
        image: `(batch, mels, frames, 1)` in [0, 255], at least 40 mels.
        name: prefix of the names of the layers.

    Returns:
        `(batch, 8192)`, in [0, 1].
    """
    statistics = SpectralStatistics(name=f"{name}_statistics")(image)
    weights = keras.initializers.RandomNormal(stddev=0.002 / statistics.shape[1] ** 0.5)
    # The projection is in float32 under mixed precision too, because distances are small differences of large numbers.
    projection = keras.layers.Dense(DIRECTIONS, kernel_initializer=weights, name=f"{name}_projection", dtype="float32")
    return GaussianKernel(LANDMARKS, name=f"{name}_landmarks")(projection(statistics))


@keras.saving.register_keras_serializable("genrekeras")
class GaussianKernel(keras.layers.Layer):
    """Compute Gaussian kernels `exp(-|x - z|^2)` between points x and landmarks z, which are weights.

    Args:
        count: `> 0`, number of landmarks.

    Input shape: `(batch, directions)`.

    Output shape: `(batch, count)`.
    """

    def __init__(self, count: int, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.count = count

    def build(self, input_shape):
        initializer = keras.initializers.RandomNormal(stddev=0.5 / input_shape[-1] ** 0.5)
        self.landmarks = self.add_weight(shape=(self.count, input_shape[-1]), initializer=initializer, name="landmarks")

    def call(self, x):
        squares = ops.sum(ops.square(x), axis=1, keepdims=True) + ops.sum(ops.square(self.landmarks), axis=1)
        products = ops.matmul(x, ops.transpose(self.landmarks))  # (batch, count)
        return ops.exp(-ops.maximum(squares - 2.0 * products, 0.0))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count)

    def get_config(self):
        return {**super().get_config(), "count": self.count}
