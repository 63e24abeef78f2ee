"""Batch-norm folding: copies of backbones that compute the same features faster, for inference only.

In inference, batch normalization multiplies each channel by a factor and adds an offset. Factor and offset are folded
into the weights of the convolution before the batch normalization. The convolution also applies the activation after
the batch normalization. Dropout layers are omitted. The remaining layers are called without the overhead of Keras'
functional models (`genrekeras.models.backbones.layer_graph`). On PyTorch, layers of `genrekeras.models.torch_layers`
replace some of these layers.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3.2.
"""

from collections.abc import Sequence

import keras
import numpy as np
from genrekeras.models import torch_layers
from genrekeras.models.backbones import FeatureExtractor
from genrekeras.models.backbones.layer_graph import LayerGraph, Step, depth_first
from genrekeras.models.torch_layers import Padding

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def for_inference(network: FeatureExtractor) -> keras.Model:
    """Return a faster copy of a backbone with folded batch normalization, for inference only.

    Returns:
        Model that computes the same features, up to rounding. It is not trainable and cannot be saved. It has copies of
        the weights, so later training of `network` does not change it.
    """
    consumers = _consumers(network)
    steps: list[Step] = []
    paddings: dict[int, Padding] = {}  # key of the output of a folded padding layer -> its padding
    replacements: dict[int, int] = {}  # key of the output of an omitted layer -> key of the tensor that replaces it
    for layer in depth_first(network):
        if isinstance(layer, keras.layers.InputLayer) or id(layer.output) in replacements:
            continue
        inputs = [replacements.get(id(tensor), id(tensor)) for tensor in keras.tree.flatten(layer.input)]
        if isinstance(layer, keras.layers.Dropout) or _is_foldable_padding(layer, consumers):
            [replacements[id(layer.output)]] = inputs
            if isinstance(layer, keras.layers.ZeroPadding2D):
                paddings[id(layer.output)] = layer.padding
            continue
        norm, activation = _foldable_layers(layer, consumers)
        replacements |= {id(folded.output): id(layer.output) for folded in (norm, activation) if folded}
        copy = _folded_copy(layer, norm, activation, paddings.get(id(layer.input), ((0, 0), (0, 0))))
        steps.append(Step(copy, inputs, id(layer.output), layer.output.shape))
    features = replacements.get(id(network.output), id(network.output))
    if keras.backend.backend() == "torch":
        steps = torch_layers.merge_steps(steps, features)
    image = keras.Input(network.input_shape[1:], name="image")
    graph = LayerGraph(steps, id(network.input), features)
    copy = keras.Model(image, FoldedModel(graph, network.output)(image))
    copy.trainable = False
    return copy


class FoldedModel(keras.layers.Layer):
    """The layers of a folded backbone, as one layer.

    Args:
        graph: the layers.
        symbolic_features: tensor with the shape and dtype of the features.
    """

    def __init__(self, graph: LayerGraph, symbolic_features: keras.KerasTensor):
        super().__init__(dtype=symbolic_features.dtype, autocast=False)
        self.graph = graph
        self.sublayers = graph.layers  # Keras finds weights in attributes that are lists of layers.
        self._features_shape = symbolic_features.shape

    def call(self, image):
        return keras.ops.cast(self.graph.run(image), self.compute_dtype)

    def compute_output_shape(self, image_shape):
        return (image_shape[0], *self._features_shape[1:])


class LayerChain(keras.layers.Layer):
    """Call layers or models one after the other. Then call each output layer on the last result.

    With one output layer, its output is returned. With several output layers, the list of their outputs is returned.

    Use this layer to build a functional model from parts of another model. If the functional model called the parts
    directly, it would never be released. Keras stores each call on a symbolic tensor in the called layer, together with
    the layers that produced the tensor. A functional model that calls a `LayerChain` can be released.

    Args:
        steps: layers or models.
        output_layers: `None` in this sequence outputs the result of the last step.
    """

    def __init__(
        self, steps: Sequence[keras.layers.Layer], output_layers: Sequence[keras.layers.Layer | None] = (None,)
    ):
        super().__init__(dtype="float32", autocast=False)
        self.steps = list(steps)
        self.output_layers = [keras.layers.Identity() if layer is None else layer for layer in output_layers]
        self.built = True

    def call(self, x):
        for step in self.steps:
            x = step(x)
        outputs = [layer(x) for layer in self.output_layers]
        return outputs if len(outputs) > 1 else outputs[0]

    def compute_output_spec(self, x):
        for step in self.steps:
            x = step.compute_output_spec(x)
        outputs = [layer.compute_output_spec(x) for layer in self.output_layers]
        return outputs if len(outputs) > 1 else outputs[0]


def _consumers(network):
    """Return the layers that use each tensor of a network as input: dict, key of the tensor -> list.

    For the output of the network, the list contains `None`.
    """
    consumers = {id(network.output): [None]}
    for layer in network.layers:
        for tensor in keras.tree.flatten(layer.input):
            consumers.setdefault(id(tensor), []).append(layer)
    return consumers


def _foldable_layers(layer, consumers):
    """Return the batch normalization and the activation after a layer that can be folded into the layer.

    Each is `None` if there is no such layer. Layers can be folded only into a convolution, and only if no other layer
    uses the tensor between the two.
    """
    foldable = []
    is_linear = isinstance(layer, CONVOLUTIONS) and layer.activation is keras.activations.linear
    for layer_class in (keras.layers.BatchNormalization, keras.layers.Activation):
        [consumer, *others] = consumers.get(id(layer.output), [None]) if is_linear else [None]
        is_foldable = isinstance(consumer, layer_class) and not others
        foldable.append(consumer if is_foldable else None)
        layer = consumer if is_foldable else layer
    return foldable


def _folded_copy(layer, norm, activation, padding):
    """Return a copy of a layer that includes the batch normalization, the activation and the padding, if any."""
    weights = layer.get_weights()
    config = {**layer.get_config(), "dtype": layer.compute_dtype}
    if isinstance(layer, CONVOLUTIONS):
        kernel, bias = _folded_weights(weights, layer, norm)
        function = activation.activation if activation else layer.activation
        if _becomes_torch_convolution(layer):
            if layer.padding == "same":
                extents = zip(layer.kernel_size, layer.dilation_rate, strict=True)
                padding = tuple((dilation * (size // 2),) * 2 for size, dilation in extents)
            return torch_layers.TorchConvolution(layer, kernel, bias, function, padding)
        config |= {"use_bias": True, "activation": function}
        weights = [kernel, bias]
    copy = type(layer).from_config(config)
    copy.build(keras.tree.map_structure(lambda tensor: tensor.shape, layer.input))
    copy.set_weights(weights)
    return copy


def _becomes_torch_convolution(layer):
    """Return whether `TorchConvolution` can replace a convolution: on PyTorch, if its own padding is symmetric."""
    odd_sizes = all(size % 2 for size in layer.kernel_size)
    is_symmetric = layer.padding == "valid" or (set(layer.strides) == {1} and odd_sizes)
    return keras.backend.backend() == "torch" and layer.data_format == "channels_first" and is_symmetric


def _is_foldable_padding(layer, consumers):
    """Return whether a layer pads the image of a `TorchConvolution` with zeros, and nothing else uses its output."""
    [consumer, *others] = consumers.get(id(layer.output), [None])
    return (
        isinstance(layer, keras.layers.ZeroPadding2D)
        and isinstance(consumer, CONVOLUTIONS)
        and not others
        and layer.data_format == "channels_first"
        and consumer.padding == "valid"
        and set(consumer.dilation_rate) == {1}
        and _becomes_torch_convolution(consumer)
    )


def _folded_weights(weights, convolution, norm):
    """Return kernel and bias of a convolution that includes the batch normalization `norm`, if it is not `None`."""
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
