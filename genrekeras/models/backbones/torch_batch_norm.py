"""Batch normalization that uses the fused kernels of PyTorch."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("genrekeras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with one PyTorch kernel for each of forward and backward, instead of some ten operations.

    Weights and results are those of `keras.layers.BatchNormalization`, up to rounding. On other backends, for an axis
    other than 1, and with a mask, the implementation of Keras is used.
    """

    def call(self, inputs, training=None, mask=None):
        if keras.backend.backend() != "torch" or self.axis % len(inputs.shape) != 1 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
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
    """Return the normalized inputs, and the mean and biased variance of the batch (PyTorch's layer: unbiased)."""
    import torch

    outputs, mean, inverse = torch.native_batch_norm(inputs, gamma, beta, None, None, True, 0.0, epsilon)
    with torch.no_grad():
        return outputs, mean.detach(), torch.clamp(inverse.detach() ** -2 - epsilon, min=0.0)
