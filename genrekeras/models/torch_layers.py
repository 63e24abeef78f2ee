"""Layers for inference on PyTorch, which `genrekeras.models.folding` uses in place of layers of Keras.

They compute the same with fewer passes over memory: kernels have the axes in PyTorch's order, zero padding is part of
the convolution, and activations, sums and products overwrite an input that is not needed again. The first call packs
the kernels, so later changes of the weights have no effect.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from genrekeras.models.backbones.layer_graph import Step
from genrekeras.models.backbones.musicnn import MaxOverMels

# Arguments of PyTorch's convolution of oneDNN. SiLU is faster as an operation of its own.
_NO_ACTIVATION: tuple[str, list[float], str] = ("none", [], "")
_FUSED_ACTIVATIONS = {
    keras.activations.linear: _NO_ACTIVATION,
    keras.activations.relu: ("relu", [], ""),
    keras.activations.relu6: ("hardtanh", [0.0, 6.0], ""),
}
Padding = tuple[tuple[int, int], tuple[int, int]]


class TorchConvolution(keras.layers.Layer):
    """Compute a convolution with bias and activation.

    Keras' own layer permutes the kernel and adds the bias separately in each call. PyTorch pads both sides of an
    axis equally. If `padding` is unequal, the kernel is extended by zeros on one side instead.

    Args:
        layer: convolution in channels_first.
        kernel: kernel of the layer, with the axes in Keras' order.
        bias: `(filters,)`.
        activation: function that is applied to the output.
        padding: number of zeros before and after the image, for each axis.
    """

    def __init__(
        self,
        layer: keras.layers.Conv2D | keras.layers.DepthwiseConv2D,
        kernel: np.ndarray,
        bias: np.ndarray,
        activation: Callable[[Any], Any],
        padding: Padding,
    ):
        super().__init__(name=layer.name, dtype=layer.compute_dtype)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            height, width, channels, multiplier = kernel.shape
            self._groups = channels
            kernel = kernel.reshape(height, width, 1, channels * multiplier)
        else:
            self._groups = layer.groups
        kernel = kernel.transpose(3, 2, 0, 1)  # (filters, channels, height, width)
        zeros = [(max(after - before, 0), max(before - after, 0)) for before, after in padding]
        kernel = np.pad(kernel, [(0, 0), (0, 0), *zeros])
        self._padding = tuple(max(sides) for sides in padding)
        self._strides, self._dilation = layer.strides, layer.dilation_rate
        self.kernel = self.add_weight(shape=kernel.shape, name="kernel")
        self.bias = self.add_weight(shape=bias.shape, name="bias")
        self.set_weights([kernel, bias])
        self.activation = activation
        self._packed = None
        self.built = True

    def call(self, x):
        return self.convolve(x, self.activation)

    def convolve(self, x: Any, activation: Callable[[Any], Any] = keras.activations.linear) -> Any:
        """Return the convolution of `x` with an activation other than that of the layer."""
        import torch

        if not x.requires_grad and _has_fused_convolution(x):
            return self._convolve_by_onednn(x, activation)
        weights = self.kernel.value, self.bias.value
        geometry = self._strides, self._padding, self._dilation, self._groups
        return _in_place(activation)(torch.nn.functional.conv2d(x, *weights, *geometry))

    def _convolve_by_onednn(self, x, activation):
        """Compute the convolution by oneDNN, which then does not reorder the kernel in each call."""
        import torch

        geometry = self._padding, self._strides, self._dilation, self._groups
        if self._packed is None:
            kernel = self.kernel.value.detach().to_mkldnn()
            kernel = torch._C._nn.mkldnn_reorder_conv2d_weight(kernel, *geometry, list(x.shape))
            self._packed = kernel, self.bias.value.detach()
        fused = _FUSED_ACTIVATIONS.get(activation)
        x = torch.ops.mkldnn._convolution_pointwise(x, *self._packed, *geometry, *(fused or _NO_ACTIVATION))
        return x if fused else _in_place(activation)(x)


class TorchMerge(keras.layers.Layer):
    """Add or multiply tensors, and apply an activation. One of the inputs is overwritten.

    Args:
        layer: `Add` or `Multiply`.
        overwritten: index of the input that is overwritten.
        activation: function that is applied to the result.
    """

    def __init__(self, layer: keras.layers.Layer, overwritten: int, activation: Callable[[Any], Any]):
        super().__init__(name=layer.name, dtype=layer.compute_dtype)
        self._adds, self._overwritten = isinstance(layer, keras.layers.Add), overwritten
        self.activation = activation
        self.built = True

    def call(self, inputs):
        [*others] = inputs
        result = others.pop(self._overwritten)
        if result.requires_grad:  # Autograd may need the input later.
            result = result.clone()
        for other in others:
            result = result.add_(other) if self._adds else result.mul_(other)
        return _in_place(self.activation)(result)


class TorchMaxOfConvolution(keras.layers.Layer):
    """Compute the maximum over the mels of a convolution that is followed by ReLU and batch normalization.

    ReLU and batch normalization are monotonic, so they are applied to the maximum instead. If batch normalization
    multiplies a channel by a negative factor, the minimum of the convolution is needed. It is computed as the maximum
    of a convolution with the opposite sign.

    Args:
        convolution: the convolution. Its weights are changed in place.
        norm: the batch normalization. Its axis is that of the channels.
    """

    def __init__(self, convolution: TorchConvolution, norm: keras.layers.BatchNormalization):
        super().__init__(name=norm.name, dtype=convolution.compute_dtype)
        gamma, beta, mean, variance = (weight.astype("float64") for weight in norm.get_weights())
        factor = gamma / np.sqrt(variance + norm.epsilon)
        signs = np.where(factor < 0, -1.0, 1.0)
        kernel, bias = convolution.get_weights()
        convolution.set_weights([kernel * signs[:, None, None, None], bias * signs])
        self._convolution = convolution
        self._constants = []
        for name, values in (("signs", signs), ("factor", factor), ("offset", beta - mean * factor)):
            constant = self.add_weight(shape=(len(values), 1, 1), name=name)
            constant.assign(values[:, None, None])
            self._constants.append(constant)
        self.built = True

    def call(self, x):
        signs, factor, offset = (constant.value for constant in self._constants)
        image = self._convolution.convolve(_channels_last(x)).permute(0, 2, 3, 1)
        rows = image.flatten(2)  # (batch, mels, frames * filters): PyTorch computes the maximum three times as fast.
        maximum = rows.amax(1, keepdim=True).unflatten(2, image.shape[2:]).permute(0, 3, 1, 2)
        return (maximum * signs).relu() * factor + offset


def _channels_last(x):
    """Return an image whose channels are adjacent in memory. With one channel, only the strides differ.

    PyTorch takes the memory format of a convolution from the strides, and its convolution of one channel is up to twice
    as fast in this format.
    """
    import torch

    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


def merge_steps(steps: Sequence[Step], features: int) -> list[Step]:
    """Replace sums and products by `TorchMerge`, and maxima over mels by `TorchMaxOfConvolution`, where possible.

    Args:
        steps: the layers of a network, in the order of their calls.
        features: key of the output of the network.
    """
    users: dict[int, list[Step]] = {features: []}
    for step in steps:
        for key in step.inputs:
            users.setdefault(key, []).append(step)
    merged: list[Step] = []
    makers: dict[int, Step] = {}  # output -> step, of the previous steps
    included: set[int] = set()  # outputs of layers that are part of a previous layer
    for step in steps:
        if step.output in included:
            continue
        following = _following(step, users, features)
        overwritten = _overwritable_input(step, users, makers, features)
        if _is_max_of_convolution(following):
            step = following[2]._replace(
                layer=TorchMaxOfConvolution(step.layer, following[1].layer), inputs=step.inputs
            )
            included |= {following[1].output, following[2].output}
        elif overwritten is not None:
            is_activated = len(following) > 1 and isinstance(following[1].layer, keras.layers.Activation)
            activation = following[1].layer.activation if is_activated else keras.activations.linear
            output = following[1].output if is_activated else step.output
            step = step._replace(layer=TorchMerge(step.layer, overwritten, activation), output=output)
            included.add(output)
        makers[step.output] = step
        merged.append(step)
    return merged


def _following(step, users, features):
    """Return a step and up to two successors. Each must be the only layer that uses the output before it."""
    steps = [step]
    while len(steps) < 3 and len(users[steps[-1].output]) == 1 and steps[-1].output != features:
        steps += users[steps[-1].output]
    return steps


def _is_max_of_convolution(steps):
    """Return whether steps are a convolution with ReLU, batch normalization of the channels, and `MaxOverMels`."""
    classes = (TorchConvolution, keras.layers.BatchNormalization, MaxOverMels)
    return (
        len(steps) == 3
        and all(isinstance(step.layer, layer_class) for step, layer_class in zip(steps, classes, strict=True))
        and steps[0].layer.activation is keras.activations.relu
        and steps[1].layer.axis == 1
    )


def _overwritable_input(step, users, makers, features):
    """Return the index of an input of a sum or a product that may be overwritten, or `None`.

    It must be the result of a convolution, with the shape of the sum or product. No other layer may use it, except for
    averages that were already computed.
    """
    if not isinstance(step.layer, keras.layers.Add | keras.layers.Multiply):
        return None
    for index, key in enumerate(step.inputs):
        others = [user for user in users[key] if user is not step]
        is_needed = any(
            user.output not in makers or not isinstance(user.layer, keras.layers.GlobalAveragePooling2D)
            for user in others
        )
        maker = makers.get(key)
        is_convolution = maker is not None and isinstance(maker.layer, TorchConvolution) and maker.shape == step.shape
        if is_convolution and not is_needed and key != features and step.inputs.count(key) == 1:
            return index
    return None


def _has_fused_convolution(x):
    """Return whether PyTorch has a convolution of oneDNN with packed kernels for a tensor like `x`."""
    import torch

    return x.device.type == "cpu" and x.dtype is torch.float32 and _test_fused_convolution()


@functools.cache
def _test_fused_convolution():
    """Return whether the private functions of PyTorch exist, and compute the same as its public convolution."""
    import torch

    x, kernel = (torch.linspace(-1, 1, size).square() for size in (4 * 6 * 5, 8 * 2 * 9))
    x, kernel, bias = x.reshape(1, 4, 6, 5), kernel.reshape(8, 2, 3, 3) - 0.3, torch.linspace(-9, 9, 8)
    padding, strides, dilation, groups = [1, 0], [2, 1], [1, 1], 2
    expected = torch.nn.functional.conv2d(x, kernel, bias, strides, padding, dilation, groups)
    arguments = padding, strides, dilation, groups
    try:
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *arguments, list(x.shape))
        outputs = [
            torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *arguments, *fused)
            for fused in _FUSED_ACTIVATIONS.values()
        ]
    except (AttributeError, TypeError, RuntimeError):
        return False
    references = [expected, expected.relu(), expected.clamp(0, 6)]
    return all(map(functools.partial(torch.allclose, atol=1e-4), outputs, references))


def _in_place(activation):
    """Return a PyTorch function that computes the same as an activation of Keras and overwrites its input."""
    return _in_place_activations().get(activation, activation)


@functools.cache
def _in_place_activations():
    import torch

    return {
        keras.activations.silu: functools.partial(torch.nn.functional.silu, inplace=True),
        keras.activations.relu: functools.partial(torch.nn.functional.relu, inplace=True),
        keras.activations.relu6: functools.partial(torch.nn.functional.relu6, inplace=True),
    }
