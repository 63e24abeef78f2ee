"""Averages of models: the mean of their logits, in one file."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, numpy, small_model, tones
from genrekeras.models import average


def member(backbone, **options):
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    options = {"front_end": front_end, "genres": ["a", "b", "c"], **options}
    return small_model(backbone=backbone, image_augmentation=[gk.layers.RandomChannelEffects(seed=1)], **options)


def mean_of_logits(models, waveforms, weights=None):
    """Probabilities that NumPy computes from those of the models."""
    logits = np.average([np.log(numpy(model(waveforms, training=False))) for model in models], axis=0, weights=weights)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.backends
def test_mean_of_logits(rng, tmp_path):
    waveforms = tones(rng, 5, 22050)
    models = [calibrate(member(name), waveforms) for name in ("mel_cnn", "mel_resnet")]
    ensemble = average(models)
    assert ensemble.backbone == ("mel_cnn", "mel_resnet") and ensemble.get_config()["image_augmentation"] == []
    expected = mean_of_logits(models, waveforms)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(numpy(ensemble(waveforms, training=False)), expected, atol=1e-5)
    np.testing.assert_allclose(ensemble.for_inference().predict(waveforms, verbose=0), expected, atol=1e-4)
    ensemble.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(waveforms, verbose=0), expected, atol=1e-5)
    assert loaded.backbone == ensemble.backbone and loaded.sample_rate == 22050


def test_weighted_mean_of_logits(rng):
    waveforms = tones(rng, 5, 22050)
    models = [calibrate(member("mel_cnn"), waveforms) for _ in range(2)]
    expected = mean_of_logits(models, waveforms, weights=(3, 1))
    assert np.abs(expected - mean_of_logits(models, waveforms)).max() > 1e-3
    np.testing.assert_allclose(numpy(average(models, weights=(3, 1))(waveforms)), expected, atol=1e-5)
    for weights in ((1,), (1, 0), (1, float("nan"))):
        with pytest.raises(ValueError, match="`weights` must be a number > 0 for each of 2 models"):
            average(models, weights)


def test_mean_of_logits_of_models_with_several_labels(rng):
    waveforms = tones(rng, 5, 22050)
    models = [calibrate(member("mel_cnn", multi_label=True), waveforms) for _ in range(2)]
    probabilities = [model.predict(waveforms, verbose=0).astype("float64") for model in models]
    logits = np.mean([np.log(each / (1 - each)) for each in probabilities], axis=0)
    ensemble = average(models)
    assert ensemble.multi_label and np.abs(probabilities[0] - probabilities[1]).max() > 1e-2
    np.testing.assert_allclose(ensemble.predict(waveforms, verbose=0), 1 / (1 + np.exp(-logits)), atol=1e-5)
    with pytest.raises(ValueError, match="must have the same genres, multi_label"):
        average([models[0], member("mel_cnn")])


def test_models_that_cannot_be_averaged():
    with pytest.raises(ValueError, match="must contain at least one model"):
        average([])
    model = member("mel_cnn")
    with pytest.raises(ValueError, match="must have the same genres"):
        average([model, member("mel_cnn", genres=["a", "b", "d"])])
    with pytest.raises(ValueError, match="must not contain averages"):
        average([average([model]), model])
    with pytest.raises(ValueError, match=r'must contain "mel_\.\.\." names only'):
        small_model(backbone=["efficientnet_b0"] * 2)
    with pytest.raises(ValueError, match="`backbone` must be one of"):
        small_model(backbone=[])
