"""The copy of a backbone for inference: the same features and gradients, none of the layers that do nothing."""

import gc

import keras
import numpy as np
import pytest
from conftest import mixed_precision, numpy, small_model
from genrekeras.models import backbones, folding

SHAPE = (64, 50, 1)
RGB = [name for name, row in backbones.BACKBONES.items() if isinstance(row, backbones.Backbone)]


def network_of(name, rng):
    """A backbone whose BatchNorms do something."""
    network = backbones.FeatureExtractor(name, SHAPE)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # in order: gamma, beta, mean, variance
            ranges = ((0.8, 1.2), (-0.3, 0.3), (-0.3, 0.3), (0.5, 1.5))
            layer.set_weights(
                [rng.uniform(*ends, w.shape) for ends, w in zip(ranges, layer.get_weights(), strict=True)]
            )
    return network


@pytest.fixture(params=list(backbones.BACKBONES))
def network(request, rng):
    return network_of(request.param, rng)


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, *SHAPE)).astype("float32")


def names(network):
    """Class of each layer of a copy."""
    [steps] = [layer for layer in network.layers if isinstance(layer, folding.Steps)]
    return [type(layer).__name__ for layer in steps.called]


def test_the_same_features(network, images):
    before = network.get_weights()
    copy = folding.for_inference(network)
    reference = numpy(network(images, training=False))
    assert np.ptp(reference, axis=0).max() > 0
    tolerance = min(1e-5 * np.abs(reference).max(), 5e-2 * np.ptp(reference, axis=0).max())
    for features in (numpy(copy(images)), copy.predict(images, verbose=0, batch_size=2)):
        np.testing.assert_allclose(features, reference, atol=tolerance)
    for left, right in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", RGB)
def test_what_does_nothing_is_gone(name, rng):
    network = network_of(name, rng)
    copy = folding.for_inference(network)
    convolutions = sum(isinstance(layer, folding.CONVOLUTIONS) for layer in network.layers)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
    assert norms == convolutions - 2 * names(copy).count("Multiply")  # squeeze and excite has none
    assert not {"BatchNormalization", "Dropout", "InputLayer"} & set(names(copy))
    assert len(copy.variables) - 2 * convolutions in (0, 3)  # those of Normalization
    assert not copy.trainable_variables
    assert copy.input_shape == network.input_shape and copy.output_shape == network.output_shape


@pytest.mark.parametrize("name", ["mel_cnn", "mel_resnet"])
def test_some_layers_in_16_bits(name, rng, images):
    with mixed_precision("mixed_bfloat16"):
        network = network_of(name, rng)
        reference = numpy(keras.ops.cast(network(images, training=False), "float32"))
        copied = folding.for_inference(network)(images)
    assert keras.backend.standardize_dtype(copied.dtype) == "bfloat16"
    found = numpy(keras.ops.cast(copied, "float32"))
    assert np.abs(found - reference).max() < 5e-2 * np.abs(reference).max()


@pytest.mark.slow_on_jax
def test_it_does_not_follow_and_leaves_nothing_behind(network, images):
    copy = folding.for_inference(network)
    features = numpy(copy(images))
    calls = len(network.layers[0].output._keras_history.operation._outbound_nodes)
    network.set_weights([0.5 * weight for weight in network.get_weights()])
    np.testing.assert_array_equal(numpy(copy(images)), features)
    folding.for_inference(network)
    assert len(network.layers[0].output._keras_history.operation._outbound_nodes) == calls
    assert network.trainable


def test_what_else_reads_a_convolution_keeps_its_batch_norm_apart(rng):
    image = keras.Input((4, 4, 1))
    first = keras.layers.Conv2D(2, 1, name="read_twice")(image)
    second = keras.layers.Conv2D(2, 1, activation="relu", name="not_linear")(first)
    third = keras.layers.DepthwiseConv2D(1, depth_multiplier=2, name="read_once")(second)
    norms = [keras.layers.BatchNormalization(name=f"norm_of_{name}") for name in ("first", "second", "third")]
    x = [norm(x) for norm, x in zip(norms[:2], (first, second), strict=True)]
    fourth = keras.layers.Activation("tanh")(norms[2](third))
    x = keras.layers.Concatenate()([*x, fourth, fourth])
    network = keras.Model(image, x)
    for norm in norms:
        norm.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in norm.get_weights()])
    copy = folding.for_inference(network)
    assert names(copy).count("BatchNormalization") == 2 and "Activation" not in names(copy)
    images = np.arange(32, dtype="float32").reshape(2, 4, 4, 1)
    np.testing.assert_allclose(numpy(copy(images)), numpy(network(images)), rtol=1e-5)


@pytest.mark.parametrize("activation", ["relu6", "silu", "tanh"])
@pytest.mark.parametrize(
    "padding, strides, dilation", [("same", 1, 1), ("same", 2, 1), ("valid", 2, 1), ("same", 1, 2)]
)
def test_convolutions_of_all_kinds(rng, activation, padding, strides, dilation):
    """Even and odd kernels, groups, dilation, in both orders of axes where the backend has both."""
    formats = ["channels_last", *(["channels_first"] if keras.backend.backend() == "torch" else [])]
    images = rng.normal(0, 1, (2, 8, 9, 10)).astype("float32")
    for data_format in formats:
        options = {"padding": padding, "strides": strides, "dilation_rate": dilation, "data_format": data_format}
        layers = [keras.layers.Conv2D(6, size, **options) for size in ((4, 3), 1)]
        layers += [keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, **options)]
        if data_format == "channels_first" or padding == "valid":  # the rest is Keras' own on torch alone
            layers += [keras.layers.Conv2D(6, 3, groups=2, **options)]
        given = images if data_format == "channels_last" else np.moveaxis(images, -1, 1)
        for layer in layers:
            image = keras.Input(given.shape[1:])
            network = keras.Model(image, keras.layers.Activation(activation)(layer(image)))
            network.set_weights([rng.normal(0, 1, weight.shape) for weight in network.get_weights()])
            copy = folding.for_inference(network)
            assert len(names(copy)) == 1
            before = given.copy()
            np.testing.assert_allclose(numpy(copy(given)), numpy(network(given)), atol=1e-4)
            np.testing.assert_array_equal(given, before)


@pytest.mark.once
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("name", [name for name in backbones.BACKBONES if name != "mel_kernel"])  # which has none
def test_the_gradient_on_torch_equals_that_of_the_network(name, rng, images):
    """What a saliency map is made of; activations overwrite what they read, which must not spoil it."""
    gradients, network = [], network_of(name, rng)
    for each in (network, folding.for_inference(network)):
        x = keras.ops.convert_to_tensor(images).requires_grad_()
        each(x, training=False).square().sum().backward()
        gradients.append(numpy(x.grad))
    # Not pixel by pixel: a ReLU that rounding puts on the other side of zero has another gradient.
    assert np.linalg.norm(gradients[1] - gradients[0]) < 1e-2 * np.linalg.norm(gradients[0])


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(rng, images, precision):
    exact = network_of("efficientnet_b0", rng)
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


def test_memory_is_given_back_as_it_goes(network):
    """Not one step keeps what no later one reads: else a batch of 16 holds a gigabyte."""
    steps = next(layer for layer in folding.for_inference(network).layers if isinstance(layer, folding.Steps))
    held, most = {steps.image}, 0
    for sources, target, read_last in steps.wiring:
        assert set(sources) <= held
        held = (held | {target}) - set(read_last)
        most = max(most, len(held))
    assert held == {steps.features} and most <= 3


def test_a_copy_is_forgotten():
    """Keras would keep it, for each call on a symbolic tensor, in the parts that it shares with its model."""
    model = small_model(backbone="mel_cnn")
    for _ in range(3):
        model.for_inference("probabilities", "ood_score")
    gc.collect()
    assert not [kept for kept in gc.get_objects() if type(kept) is folding.Steps]
