"""Gaussian kernels between the statistics of an image and those of landmarks: the features of kernel ridge regression.

It is not trained by epochs but fitted at once, by `genrekeras.training.fit_kernel_ridge`.
"""

import keras
from genrekeras.layers.statistics import SpectralStatistics
from keras import ops

LANDMARKS, DIRECTIONS = 8192, 128  # of `mel_kernel`


def mel_kernel(image, name="mel_kernel"):
    """How like each of some known clips a clip is: Gaussian kernels of its statistics, 1.7 million weights.

    Args:
        image, name: as of `mel_cnn`; at least 40 mels.

    Returns:
        Keras tensor, `(batch, 8192)`, in 0..1. Until `genrekeras.training.kernel_ridge.fit` the clips are made up.
    """
    statistics = SpectralStatistics(name=f"{name}_statistics")(image)
    weights = keras.initializers.RandomNormal(stddev=0.002 / statistics.shape[1] ** 0.5)
    # in float32 as they are: distances are small differences of large numbers
    x = keras.layers.Dense(DIRECTIONS, kernel_initializer=weights, name=f"{name}_projection", dtype="float32")(
        statistics
    )
    return GaussianKernel(LANDMARKS, name=f"{name}_landmarks")(x)


@keras.saving.register_keras_serializable("genrekeras")
class GaussianKernel(keras.layers.Layer):
    """`exp(-|x - z|^2)` of points to landmarks z, which are weights.

    Args:
        count: int > 0, landmarks.

    Input shape: `(batch, directions)`. Output shape: `(batch, count)`.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.count = count

    def build(self, input_shape):
        near = keras.initializers.RandomNormal(stddev=0.5 / input_shape[-1] ** 0.5)
        self.landmarks = self.add_weight(shape=(self.count, input_shape[-1]), initializer=near, name="landmarks")

    def call(self, x):
        squares = ops.sum(ops.square(x), axis=1, keepdims=True) + ops.sum(ops.square(self.landmarks), axis=1)
        products = ops.matmul(x, ops.transpose(self.landmarks))  # (batch, count)
        return ops.exp(-ops.maximum(squares - 2.0 * products, 0.0))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count)

    def get_config(self):
        return {**super().get_config(), "count": self.count}
