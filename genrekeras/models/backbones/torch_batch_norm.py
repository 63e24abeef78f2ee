"""Batch normalization that uses the fused kernels of PyTorch."""

import keras


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
        import torch

        gamma, beta, mean, variance = (
            weight.value for weight in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        if not (training and self.trainable):
            return torch.nn.functional.batch_norm(inputs, mean, variance, gamma, beta, eps=self.epsilon)
        outputs, batch_mean, inverse = torch.native_batch_norm(inputs, gamma, beta, None, None, True, 0.0, self.epsilon)
        with torch.no_grad():
            # The variance is biased, as in Keras. PyTorch's own layer computes the unbiased variance.
            batch_variance = inverse.pow(-2).sub_(self.epsilon).clamp_(min=0)
            self.moving_mean.assign(torch.lerp(mean, batch_mean, 1.0 - self.momentum))
            self.moving_variance.assign(torch.lerp(variance, batch_variance, 1.0 - self.momentum))
        return outputs
