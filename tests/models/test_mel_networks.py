"""Networks for spectrograms: their layers against NumPy, what is drawn by lot in training, the models they make."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, small_model
from genrekeras.models import backbones, folding
from genrekeras.models.backbones.mel_networks import (
    AttentiveStatisticsPooling,
    GaussianKernel,
    RandomTemporalCrop,
    RandomTemporalSubsample,
)
from test_export import NO_OPENVINO

NAMES = ("mel_cnn", "mel_resnet")


def test_silence_and_extremes_are_finite(extremes):
    for name in (*NAMES, "mel_kernel"):
        assert np.isfinite(numpy(backbones.FeatureExtractor(name, (64, 40, 1))(extremes))).all()


def test_gaussian_kernel(rng):
    x, layer = rng.normal(0, 0.3, (5, 3)).astype("float32"), GaussianKernel(7)
    found = numpy(layer(x))
    [landmarks] = layer.get_weights()
    np.testing.assert_allclose(found, np.exp(-((x[:, None] - landmarks) ** 2).sum(axis=2)), rtol=1e-5)
    assert found.shape == layer.compute_output_shape(x.shape) and layer.get_config()["count"] == 7


def test_time_pooling(rng):
    pool = AttentiveStatisticsPooling(heads=2, units=5, maximum=True)
    x = rng.normal(0, 1, (3, 7, 4)).astype("float32")
    found = numpy(pool(x))
    kernel, bias, scores, offset = pool.get_weights()
    weights = np.exp(np.tanh(x @ kernel + bias) @ scores + offset)
    weights = np.repeat(weights / weights.sum(axis=1, keepdims=True), 2, axis=2)
    expected = [x.mean(axis=1), np.sqrt(x.var(axis=1) + 1e-4), (weights * x).sum(axis=1), x.max(axis=1)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-5)
    assert found.shape == pool.compute_output_shape(x.shape)


@pytest.mark.parametrize("kind", [RandomTemporalSubsample, RandomTemporalCrop])
def test_columns_by_lot(kind):
    images = np.broadcast_to(np.arange(40.0, dtype="float32")[None, None, :, None], (200, 3, 40, 1))
    layer = kind(12, seed=1)
    assert layer(images, training=False).shape == images.shape
    seen = numpy(layer(images, training=True))
    assert seen.shape == (200, 3, 12, 1)
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[:, :1], seen.shape))  # whole columns
    steps = np.diff(seen[:, 0, :, 0], axis=1)
    assert (steps == 1).all() if kind is RandomTemporalCrop else (steps >= 1).all() and (steps > 1).any()
    assert len(np.unique(seen[:, 0, :, 0], axis=0)) > 20 and seen.min() == 0 and seen.max() == 39
    few = images[:, :, :12]
    np.testing.assert_array_equal(numpy(layer(few, training=True)), few)
    assert kind.from_config(layer.get_config()).count == 12
    with pytest.raises(ValueError, match="must be an integer > 0 or a share"):
        kind(0)
    share = kind.from_config(kind(0.3, seed=1).get_config())
    np.testing.assert_array_equal(numpy(share(images, training=True)), seen)


@pytest.mark.parametrize("name, weights", [("mel_cnn", 873_092), ("mel_resnet", 699_920)])
def test_a_backbone(name, weights, images):
    network = backbones.FeatureExtractor(name, (128, 128, 1))
    assert network.count_params() == pytest.approx(weights, abs=2000) and network.output_shape == (None, 256)
    network = backbones.FeatureExtractor(name, (64, 40, 1))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    network(images, training=True)
    features = numpy(network(images, training=False))
    assert np.ptp(features, axis=0).max() > 0.1
    np.testing.assert_allclose(numpy(folding.for_inference(network)(images)), features, atol=1e-4 * features.max())
    alone = np.concatenate([numpy(network(image[None], training=False)) for image in images])
    np.testing.assert_allclose(alone, features, atol=1e-4 * features.max())


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_a_model(name, tmp_path, rng):
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    model = small_model(backbone=name, front_end=front_end, genres=["a", "b"])
    images, labels = rng.uniform(0, 255, (12, 64, 80, 1)).astype("float32"), np.arange(12) % 2
    images[labels == 1, :32] /= 4
    model.image_model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.image_model.fit(images, labels, epochs=12, batch_size=12, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    model.save(tmp_path / "m.keras")
    waveforms = rng.uniform(-1, 1, (2, 22050)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(waveforms), model.predict(waveforms), atol=1e-6)
    model.fine_tune = "stem"
    assert {weight.path.split("/")[-2] for weight in model.feature_extractor.trainable_variables} == {f"{name}_conv1"}


def test_a_frozen_network_stands_still_and_few_mels_are_enough(rng):
    model = small_model(backbone=list(NAMES), front_end=gk.datasets.sampled_logmel_front_end(80, 22050, n_mels=32))
    images = rng.uniform(0, 255, (2, 32, 80, 1)).astype("float32")
    model.fine_tune = "head"
    still = numpy(model.feature_extractor(images, training=False))
    np.testing.assert_allclose(numpy(model.feature_extractor(images, training=True)), still, atol=1e-5)


def test_what_changes_from_frame_to_frame_is_in_training_what_it_is_in_inference(rng):
    """Of sampled frames some by lot, of all that there are neighbours: between others lies more change."""
    assert isinstance(
        backbones.FeatureExtractor("mel_resnet", (32, 128, 1)).get_layer("mel_resnet_frames"), RandomTemporalSubsample
    )
    network = backbones.FeatureExtractor("mel_resnet", (32, 300, 1))
    cepstra = keras.Model(network.input, network.get_layer("mel_resnet_cepstra").output)
    slow = np.clip(128 + rng.normal(0, 2, (64, 32, 300)).cumsum(axis=2), 0, 255).astype("float32")[..., None]
    seen = [numpy(cepstra(slow, training=training)) for training in (True, False)]
    assert np.abs(seen[0] - seen[1]).max() > 0.01  # fewer frames
    steps = slice(6 * 32, 7 * 32)  # logarithms
    np.testing.assert_allclose(*(values[:, steps].mean(axis=0) for values in seen), atol=0.05)


def test_channels_that_cannot_be_dealt_to_the_heads():
    with pytest.raises(ValueError, match="must be a multiple of `heads`, 4"):
        AttentiveStatisticsPooling(heads=4)(np.zeros((1, 5, 6), "float32"))


def test_there_are_no_pretrained_weights():
    with pytest.raises(backbones.PretrainedWeightsError, match="There are no pretrained weights of mel_cnn"):
        gk.GenreClassifier("mel_cnn", clip_seconds=1.0)


@pytest.mark.once
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("form, ending, package", [("onnx", "onnx", "onnxscript"), ("openvino", "xml", "openvino")])
def test_export(form, ending, package, tmp_path):
    """All that they compute, and sampled frames; `export` compares what was written."""
    pytest.importorskip(package)
    if form == "openvino" and NO_OPENVINO:
        pytest.skip("OpenVINO's converter fails beside TensorFlow on Python 3.13")
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    model = small_model(backbone=[*NAMES, "mel_kernel"], front_end=front_end, genres=["a", "b"])
    assert gk.export.export(model, tmp_path / f"m.{ending}", form) < 1e-4
