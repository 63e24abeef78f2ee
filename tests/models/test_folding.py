"""Batch-norm folding: copies of backbones have the same features and gradients, with fewer layers."""

import gc

import keras
import numpy as np
import pytest
from conftest import mixed_precision, numpy, small_model
from genrekeras.models import backbones, folding, torch_layers

SHAPE = (64, 50, 1)
NAMES = ["mel_cnn", "mel_resnet", "musicnn"]
if keras.backend.backend() != "jax":  # which takes minutes to compile the large networks
    NAMES += ["efficientnet_b0"]
    NAMES += [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "efficientnet_lite0")]


def random_network(name, rng):
    """A backbone with random batch normalization."""
    network = backbones.FeatureExtractor(name, SHAPE)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # in order: gamma, beta, mean, variance
            ranges = ((0.8, 1.2), (-0.3, 0.3), (-0.3, 0.3), (0.5, 1.5))
            gamma, *others = [rng.uniform(*ends, w.shape) for ends, w in zip(ranges, layer.get_weights(), strict=True)]
            layer.set_weights([gamma * rng.choice([-1, 1], gamma.shape), *others])
    return network


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    """A backbone that tests must not change."""
    keras.utils.set_random_seed(20231122)
    return random_network(request.param, np.random.default_rng(20231122))


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, *SHAPE)).astype("float32")


def folded_model(copy):
    [folded] = [layer for layer in copy.layers if isinstance(layer, folding.FoldedModel)]
    return folded


def class_names(copy):
    """Class of each layer of a copy."""
    return [type(layer).__name__ for layer in folded_model(copy).sublayers]


@pytest.mark.backends
def test_features_are_equal(network, images):
    before = network.get_weights()
    copy = folding.for_inference(network)
    reference = numpy(network(images, training=False))
    assert np.ptp(reference, axis=0).max() > 0
    tolerance = min(1e-5 * np.abs(reference).max(), 5e-2 * np.ptp(reference, axis=0).max())
    for features in (numpy(copy(images)), copy.predict(images, verbose=0, batch_size=2)):
        np.testing.assert_allclose(features, reference, atol=tolerance)
    for left, right in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_folded_layers_are_omitted(network):
    if network.backbone.startswith("mel") or network.backbone == "musicnn":
        pytest.skip("batch normalization of dense layers, or after an activation, is not folded")
    copy = folding.for_inference(network)
    convolutions = sum(isinstance(layer, folding.CONVOLUTIONS) for layer in network.layers)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
    multiplications = sum(isinstance(layer, keras.layers.Multiply) for layer in network.layers)
    assert norms == convolutions - 2 * multiplications  # none in squeeze and excitation
    assert not {"BatchNormalization", "Dropout", "InputLayer"} & set(class_names(copy))
    assert len(copy.variables) - 2 * convolutions in (0, 3)  # those of Normalization
    assert not copy.trainable_variables
    assert copy.input_shape == network.input_shape and copy.output_shape == network.output_shape


@pytest.mark.backends
@pytest.mark.parametrize("name", ["mel_cnn", "mel_resnet"])
def test_some_layers_in_16_bits(name, rng, images):
    with mixed_precision("mixed_bfloat16"):
        network = random_network(name, rng)
        reference = numpy(keras.ops.cast(network(images, training=False), "float32"))
        features = folding.for_inference(network)(images)
    assert keras.backend.standardize_dtype(features.dtype) == "bfloat16"
    features = numpy(keras.ops.cast(features, "float32"))
    assert np.abs(features - reference).max() < 5e-2 * np.abs(reference).max()


def test_a_copy_is_independent_of_its_network(rng, images):
    """Training of the network does not change the copy, and the network does not keep the calls of copies."""
    network = random_network("mel_cnn", rng)
    copy = folding.for_inference(network)
    features = numpy(copy(images))
    calls = len(network.layers[0].output._keras_history.operation._outbound_nodes)
    network.set_weights([0.5 * weight for weight in network.get_weights()])
    np.testing.assert_array_equal(numpy(copy(images)), features)
    folding.for_inference(network)
    assert len(network.layers[0].output._keras_history.operation._outbound_nodes) == calls
    assert network.trainable


@pytest.mark.backends
def test_batch_norm_is_folded_only_if_nothing_else_uses_the_convolution(rng):
    image = keras.Input((4, 4, 1))
    first = keras.layers.Conv2D(2, 1, name="used_twice")(image)
    second = keras.layers.Conv2D(2, 1, activation="relu", name="not_linear")(first)
    third = keras.layers.DepthwiseConv2D(1, depth_multiplier=2, name="used_once")(second)
    norms = [keras.layers.BatchNormalization(name=f"norm_of_{name}") for name in ("first", "second", "third")]
    x = [norm(x) for norm, x in zip(norms[:2], (first, second), strict=True)]
    fourth = keras.layers.Activation("tanh")(norms[2](third))
    x = keras.layers.Concatenate()([*x, fourth, fourth])
    network = keras.Model(image, x)
    for norm in norms:
        norm.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in norm.get_weights()])
    copy = folding.for_inference(network)
    assert class_names(copy).count("BatchNormalization") == 2 and "Activation" not in class_names(copy)
    images = np.arange(32, dtype="float32").reshape(2, 4, 4, 1)
    np.testing.assert_allclose(numpy(copy(images)), numpy(network(images)), rtol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("activation", ["relu6", "silu", "tanh"])
@pytest.mark.parametrize(
    "padding, strides, dilation", [("same", 1, 1), ("same", 2, 1), ("valid", 2, 1), ("same", 1, 2)]
)
def test_convolutions_of_all_kinds(rng, activation, padding, strides, dilation):
    """Even and odd kernels, groups and dilation, in all data formats that the backend supports."""
    formats = ["channels_last", *(["channels_first"] if keras.backend.backend() == "torch" else [])]
    images = rng.normal(0, 1, (2, 8, 9, 10)).astype("float32")
    for data_format in formats:
        options = {"padding": padding, "strides": strides, "dilation_rate": dilation, "data_format": data_format}
        layers = [keras.layers.Conv2D(6, size, **options) for size in ((4, 3), 1)]
        layers += [keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, **options)]
        if data_format == "channels_first" or padding == "valid":  # TensorFlow on CPU does not support the others
            layers += [keras.layers.Conv2D(6, 3, groups=2, **options)]
        inputs = images if data_format == "channels_last" else np.moveaxis(images, -1, 1)
        for layer in layers:
            image = keras.Input(inputs.shape[1:])
            network = keras.Model(image, keras.layers.Activation(activation)(layer(image)))
            network.set_weights([rng.normal(0, 1, weight.shape) for weight in network.get_weights()])
            copy = folding.for_inference(network)
            assert len(class_names(copy)) == 1
            before = inputs.copy()
            np.testing.assert_allclose(numpy(copy(inputs)), numpy(network(inputs)), atol=1e-4)
            np.testing.assert_array_equal(inputs, before)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_without_private_functions_of_torch(network, images, monkeypatch):
    fast = numpy(folding.for_inference(network)(images))
    assert torch_layers._test_fused_convolution()
    monkeypatch.setattr(torch_layers, "_test_fused_convolution", lambda: False)
    features = numpy(folding.for_inference(network)(images))
    np.testing.assert_allclose(fast, features, atol=1e-5 * np.abs(features).max())


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("size", [2, 3, (1, 4)])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", [((0, 1), (2, 0)), ((1, 1), (0, 0)), 2])
def test_padding_on_torch(rng, size, strides, padding):
    """Zeros on one side of the image become zeros of the kernel."""
    for second in (keras.layers.Conv2D(6, size, strides), keras.layers.DepthwiseConv2D(size, strides)):
        second = type(second).from_config({**second.get_config(), "data_format": "channels_first", "name": "second"})
        image = keras.Input((4, 8, 9))
        first = keras.layers.ZeroPadding2D(padding, data_format="channels_first")
        network = keras.Model(image, second(first(image)))
        copy = folding.for_inference(network)
        assert class_names(copy) == ["TorchConvolution"]
        x = rng.normal(0, 1, (2, 4, 8, 9)).astype("float32")
        np.testing.assert_allclose(numpy(copy(x)), numpy(network(x)), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_sums_and_products_on_torch(rng):
    """Only results of convolutions that nothing else needs are overwritten."""
    options = {"data_format": "channels_first"}

    def convolve(x):
        return keras.layers.Conv2D(4, 1, **options)(x)

    image = keras.Input((4, 5, 6))
    free, needed, squeezed = (convolve(image) for _ in range(3))
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, **options)(squeezed)
    product = keras.layers.Multiply()([squeezed, mean])
    activated = keras.layers.Activation("relu")(keras.layers.Add()([image, free, needed]))
    twice = keras.layers.Add()([needed, needed])
    gated = keras.layers.Multiply()([convolve(mean), image])  # the result is larger than the convolution
    network = keras.Model(image, keras.layers.Concatenate(1)([product, activated, twice, needed, image, gated]))
    copy = folding.for_inference(network)
    assert class_names(copy).count("TorchMerge") == 2 and class_names(copy).count("Add") == 1
    assert "Activation" not in class_names(copy)
    x = rng.normal(0, 1, (2, 4, 5, 6)).astype("float32")
    before = x.copy()
    np.testing.assert_allclose(numpy(copy(x)), numpy(network(x)), atol=1e-5)
    np.testing.assert_array_equal(x, before)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_gradients_on_torch_are_equal(network, images):
    """Gradients for saliency maps; activations that are computed in place must not change them."""
    gradients = []
    for each in (network, folding.for_inference(network)):
        x = keras.ops.convert_to_tensor(images).requires_grad_()
        each(x, training=False).square().sum().backward()
        gradients.append(numpy(x.grad))
    # Pixels may differ: rounding may change the sign of the input of a ReLU.
    assert np.linalg.norm(gradients[1] - gradients[0]) < 1e-2 * np.linalg.norm(gradients[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(rng, images, precision):
    exact = random_network("efficientnet_b0", rng)
    with mixed_precision(precision):
        network = backbones.FeatureExtractor("efficientnet_b0", SHAPE)
        network.set_weights(exact.get_weights())
        copy = folding.for_inference(network)
        features = copy(images)
    half = precision.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(features.dtype) == half == network.output.dtype
    reference = numpy(exact(images, training=False))
    with mixed_precision("float32"):
        features = numpy(keras.ops.cast(features, "float32"))
    np.testing.assert_allclose(features, reference, atol=0.02 * np.abs(reference).max())


def test_tensors_are_released_after_their_last_use(network):
    """Otherwise a batch of 16 clips would need a gigabyte. Parallel branches are computed one after the other."""
    folded = folded_model(folding.for_inference(network))
    sizes = {id(layer.output): np.prod(layer.output.shape[1:]) for layer in network.layers}
    kept, peak = {folded.graph.image_key}, 0
    for inputs, output, unused in folded.graph.connections:
        assert set(inputs) <= kept
        peak = max(peak, sum(sizes[key] for key in kept | {output}))
        kept = (kept | {output}) - set(unused)
    assert kept == {folded.graph.features_key} and peak <= 3 * max(sizes.values())


def test_copies_are_released():
    """Keras would keep each copy in the layers that it shares with its model."""
    model = small_model(backbone="mel_cnn")
    for _ in range(3):
        model.for_inference("probabilities", "ood_score")
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is folding.FoldedModel]
