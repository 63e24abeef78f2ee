"""A copy of a backbone for inference: the same features, less to do.

In inference BatchNorm is a factor and an offset for each channel, which go into the convolution before it, as the
activation does; Dropout does nothing. What is left runs step by step, without what Keras does around each layer of a
network. On torch the convolutions keep their kernels in torch's order, and an activation overwrites what it reads.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018, section 3.2.
"""

import functools

import keras
import numpy as np

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def for_inference(network):
    """A copy of a network that computes the same and is faster, for inference only.

    Args:
        network: `backbones.FeatureExtractor`.

    Returns:
        A `keras.Model` with weights of its own, not trainable; the same features to rounding. It does not follow when
        the network is trained, and it is not for saving.
    """
    readers = _readers(network)
    steps = []
    same_as = {}  # by the output of a layer that is left out: the one that takes its place
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer) or id(layer.output) in same_as:
            continue
        sources = [same_as.get(id(tensor), id(tensor)) for tensor in keras.tree.flatten(layer.input)]
        if isinstance(layer, keras.layers.Dropout):
            [same_as[id(layer.output)]] = sources
            continue
        norm, activation = _taken_in(layer, readers)
        same_as |= {id(follower.output): id(layer.output) for follower in (norm, activation) if follower}
        steps.append((_copy(layer, norm, activation), sources, id(layer.output)))
    features = same_as.get(id(network.output), id(network.output))
    image = keras.Input(network.input_shape[1:], name="image")
    copy = keras.Model(image, FoldedModel(steps, id(network.input), features, network.output)(image))
    copy.trainable = False
    return copy


class FoldedModel(keras.layers.Layer):
    """Layers one after the other. What none of the later ones reads is forgotten at once.

    Args:
        steps: list of (layer, keys of the tensors that it reads, key of the one that it gives).
        image, features: keys of the first tensor and of the last.
        like: symbolic tensor of the shape and type of the features.
    """

    def __init__(self, steps, image, features, like):
        super().__init__(dtype=like.dtype, autocast=False)
        self.image, self.features, self._features_shape = image, features, like.shape
        self.called = [layer for layer, _, _ in steps]
        self.casts = {layer.compute_dtype for layer in self.called} != {"float32"}  # 16 bits, or some layers of both
        last = {key: place for place, (_, sources, _) in enumerate(steps) for key in sources}
        self.wiring = [
            (sources, target, [key for key in last if last[key] == place])
            for place, (_, sources, target) in enumerate(steps)
        ]

    def call(self, image):
        tensors = {self.image: image}
        for layer, (sources, target, read_last) in zip(self.called, self.wiring, strict=True):
            read = [tensors[key] for key in sources]
            run = layer if self.casts else layer.call
            tensors[target] = run(read[0] if len(read) == 1 else read)
            for key in read_last:
                del tensors[key]
        features = tensors[self.features]
        return keras.ops.cast(features, self.compute_dtype) if self.casts else features

    def compute_output_shape(self, image_shape):
        return (image_shape[0], *self._features_shape[1:])


class LayerChain(keras.layers.Layer):
    """Layers and models one after the other, and some beside each other behind the last.

    Keras notes each call on a symbolic tensor in the layer that is called, with all that made the tensor, for as long
    as the layer lives. So a model over parts of another one would never be forgotten; a model over this is.

    Args:
        steps: list of layers.
        ends: list of layers, or `None` for what the last step gives; of several it gives a list.
    """

    def __init__(self, steps, ends=(None,)):
        super().__init__(dtype="float32", autocast=False)
        self.steps, self.ends = list(steps), [keras.layers.Identity() if end is None else end for end in ends]
        self.built = True

    def call(self, x):
        for step in self.steps:
            x = step(x)
        found = [end(x) for end in self.ends]
        return found if len(found) > 1 else found[0]

    def compute_output_spec(self, x):
        for step in self.steps:
            x = step.compute_output_spec(x)
        found = [end.compute_output_spec(x) for end in self.ends]
        return found if len(found) > 1 else found[0]


class ConvolutionOnTorch(keras.layers.Layer):
    """torch's own convolution, which adds the bias by itself; Keras turns the kernel at each call and adds it after.

    Args:
        layer: `keras.layers.Conv2D` or `DepthwiseConv2D` of channels_first that pads the same on all sides.
        kernel: array in Keras' order.
        bias: `(filters,)`.
        activation: function.
    """

    def __init__(self, layer, kernel, bias, activation):
        super().__init__(name=layer.name, dtype=layer.compute_dtype)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            height, width, channels, multiplier = kernel.shape
            self._groups = channels
            kernel = kernel.reshape(height, width, 1, channels * multiplier)
        else:
            self._groups = layer.groups
        kernel = kernel.transpose(3, 2, 0, 1)  # (filters, channels, height, width)
        self._strides, self._padding, self._dilation = layer.strides, layer.padding, layer.dilation_rate
        self._kernel = self.add_weight(shape=kernel.shape, name="kernel")
        self._bias = self.add_weight(shape=bias.shape, name="bias")
        self.set_weights([kernel, bias])
        self._activation = _in_place_on_torch().get(activation, activation)
        self.built = True

    def call(self, x):
        return self._activation(_convolve_on_torch(self, x))


def _convolve_on_torch(layer, x):
    import torch

    weights = layer._kernel.value, layer._bias.value
    return torch.nn.functional.conv2d(x, *weights, layer._strides, layer._padding, layer._dilation, layer._groups)


def _in_place_on_torch():
    import torch

    return {
        keras.activations.silu: functools.partial(torch.nn.functional.silu, inplace=True),
        keras.activations.relu: functools.partial(torch.nn.functional.relu, inplace=True),
        keras.activations.relu6: functools.partial(torch.nn.functional.relu6, inplace=True),
    }


def _readers(network):
    """What reads each tensor of a network, by the tensor; the caller of the network is one."""
    readers = {id(network.output): [None]}
    for layer in network.layers:
        for tensor in keras.tree.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    return readers


def _taken_in(layer, readers):
    """The BatchNorm and the activation that go into a convolution: each the only one to read what comes before it."""
    taken = []
    linear = isinstance(layer, CONVOLUTIONS) and layer.activation is keras.activations.linear
    for kind in (keras.layers.BatchNormalization, keras.layers.Activation):
        [reader, *others] = readers.get(id(layer.output), [None]) if linear else [None]
        fits = isinstance(reader, kind) and not others
        taken.append(reader if fits else None)
        layer = reader if fits else layer
    return taken


def _copy(layer, norm, activation):
    weights = layer.get_weights()
    config = {**layer.get_config(), "dtype": layer.compute_dtype}
    if isinstance(layer, CONVOLUTIONS):
        kernel, bias = _folded(weights, layer, norm)
        function = activation.activation if activation else layer.activation
        if _torch_can(layer):
            return ConvolutionOnTorch(layer, kernel, bias, function)
        config |= {"use_bias": True, "activation": function}
        weights = [kernel, bias]
    copy = type(layer).from_config(config)
    copy.build(keras.tree.map_structure(lambda tensor: tensor.shape, layer.input))
    copy.set_weights(weights)
    return copy


def _torch_can(layer):
    """Whether torch pads as Keras does: the same on all sides."""
    even = layer.padding == "valid" or (set(layer.strides) == {1} and all(size % 2 for size in layer.kernel_size))
    return keras.backend.backend() == "torch" and layer.data_format == "channels_first" and even


def _folded(weights, convolution, norm):
    """Kernel and bias of a convolution with the BatchNorm behind it, if there is one."""
    kernel, *bias = (weight.astype("float64") for weight in weights)
    depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    filters = np.prod(kernel.shape[2:] if depthwise else kernel.shape[3:], dtype=int)
    bias, factor = sum(bias, np.zeros(filters)), np.ones(filters)
    if norm:
        gamma, beta, mean, variance = (weight.astype("float64") for weight in norm.get_weights())
        factor = gamma / np.sqrt(variance + norm.epsilon)
        bias = beta + (bias - mean) * factor
    if depthwise:
        factor = factor.reshape(kernel.shape[2:])  # (channels, multiplier)
    return (kernel * factor).astype("float32"), bias.astype("float32")
