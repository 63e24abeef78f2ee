"""Small networks for spectrograms, and the models with them."""

import sys

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, small_model
from genrekeras.layers.temporal import RandomTemporalSubsample
from genrekeras.models import backbones, folding

NAMES = ("mel_cnn", "mel_resnet")


@pytest.mark.backends
@pytest.mark.parametrize("name", NAMES)
def test_extreme_images(name, extremes):
    assert np.isfinite(numpy(backbones.FeatureExtractor(name, (64, 40, 1))(extremes))).all()


@pytest.mark.backends
@pytest.mark.parametrize("name, weights", [("mel_cnn", 873_092), ("mel_resnet", 699_920)])
def test_features(name, weights, images):
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


@pytest.mark.parametrize("name", ["mel_resnet", pytest.param("mel_cnn", marks=pytest.mark.slow)])
def test_training_and_saving(name, tmp_path, rng):
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


@pytest.mark.backends
def test_frozen_networks_and_few_mels(rng):
    model = small_model(backbone=list(NAMES), front_end=gk.datasets.sampled_logmel_front_end(80, 22050, n_mels=32))
    images = rng.uniform(0, 255, (2, 32, 80, 1)).astype("float32")
    model.fine_tune = "head"
    features = numpy(model.feature_extractor(images, training=False))
    np.testing.assert_allclose(numpy(model.feature_extractor(images, training=True)), features, atol=1e-5)


@pytest.mark.backends
def test_differences_of_frames_are_the_same_in_training_and_inference(rng):
    """Random frames are selected from subsampled images only; from others consecutive frames, which differ less."""
    assert isinstance(
        backbones.FeatureExtractor("mel_resnet", (32, 128, 1)).get_layer("mel_resnet_frames"), RandomTemporalSubsample
    )
    network = backbones.FeatureExtractor("mel_resnet", (32, 300, 1))
    cepstra = keras.Model(network.input, network.get_layer("mel_resnet_cepstra").output)
    images = np.clip(128 + rng.normal(0, 2, (64, 32, 300)).cumsum(axis=2), 0, 255).astype("float32")[..., None]
    in_training, in_inference = (numpy(cepstra(images, training=training)) for training in (True, False))
    assert np.abs(in_training - in_inference).max() > 0.01  # fewer frames
    differences = slice(6 * 32, 7 * 32)  # log mean absolute differences
    means = (statistics[:, differences].mean(axis=0) for statistics in (in_training, in_inference))
    np.testing.assert_allclose(*means, atol=0.05)


def test_no_pretrained_weights():
    with pytest.raises(backbones.PretrainedWeightsError, match="There are no pretrained weights for mel_cnn"):
        gk.GenreClassifier("mel_cnn", clip_seconds=1.0)


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("form, ending, package", [("onnx", "onnx", "onnxscript"), ("openvino", "xml", "openvino")])
def test_export(form, ending, package, tmp_path):
    """`export` compares the outputs of the exported model with those of the model."""
    pytest.importorskip(package)
    if form == "openvino" and sys.version_info >= (3, 13):
        pytest.skip("the converter of OpenVINO fails on Python 3.13 if TensorFlow is installed")
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    model = small_model(backbone=list(NAMES), front_end=front_end, genres=["a", "b"])
    assert gk.export.export(model, tmp_path / f"m.{ending}", form) < 1e-4
