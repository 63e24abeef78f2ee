"""Batch normalization that uses the fused kernels of PyTorch."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("genrekeras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Normalize batches by one PyTorch kernel in the forward pass and one in the backward pass.

    Keras uses about ten operations instead. Weights and results are the same as those of
    `keras.layers.BatchNormalization`, up to rounding. Keras' implementation is used on other backends, for an axis
    other than 1, and with a mask.
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
    """Return the normalized inputs, and the mean and the variance of the batch.

    The variance is biased, as in Keras. PyTorch's own layer computes the unbiased variance.
    """
    import torch

    outputs, mean, inverse = torch.native_batch_norm(inputs, gamma, beta, None, None, True, 0.0, epsilon)
    with torch.no_grad():
        return outputs, mean.detach(), torch.clamp(inverse.detach() ** -2 - epsilon, min=0.0)
