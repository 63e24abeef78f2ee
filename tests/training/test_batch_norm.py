"""`recalibrate_batch_norm` gives the statistics of images as in inference."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy


def make_model(augmentation=()):
    return gk.GenreClassifier(
        "mel_cnn",
        ["a", "b"],
        clip_seconds=3.0,
        front_end=gk.datasets.sampled_logmel_front_end(32, 22_050, 40),
        fine_tune="all",
        pretrained=None,
        image_augmentation=augmentation,
    )


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 40, 32, 1), "uint8")


@pytest.mark.backends
def test_inputs_of_each_layer_are_normalized(images):
    keras.utils.set_random_seed(0)
    model = make_model([gk.layers.RandomChannelEffects(seed=0)])
    before = [numpy(weight) for weight in model.trainable_variables]
    gk.training.recalibrate_batch_norm(model, images, batch_size=5)
    network = model.feature_extractor
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) == 7
    for layer in layers:
        values = numpy(keras.Model(network.inputs, layer.output)(images.astype("float32"), training=False))
        axes = tuple(axis for axis in range(values.ndim) if axis != layer.axis % values.ndim)
        variance = numpy(layer.moving_variance)
        np.testing.assert_allclose(values.mean(axis=axes), 0, atol=1e-3)
        np.testing.assert_allclose(values.var(axis=axes), variance / (variance + layer.epsilon), rtol=5e-3, atol=1e-4)
    for weight, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


def test_it_does_not_depend_on_the_batch_size(images):
    results = []
    for batch_size in (3, 10):
        keras.utils.set_random_seed(0)
        model = make_model()
        gk.training.recalibrate_batch_norm(model, images, batch_size)
        results.append(model.image_model.predict(images, verbose=0))
    np.testing.assert_allclose(*results, atol=1e-5)


def test_wrong_arguments(images):
    with pytest.raises(ValueError, match=r"must have the shape \(n, 40, 32, 1\), n > 0. Received: shape \(0,"):
        gk.training.recalibrate_batch_norm(make_model(), images[:0])
    with pytest.raises(ValueError, match=r"Received: shape \(10, 16, 32, 1\)"):
        gk.training.recalibrate_batch_norm(make_model(), images[:, :16])
