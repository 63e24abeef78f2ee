"""Several models as one: the mean of their logits, in one file."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, small_model, tones
from genrekeras.models import average


def member(backbone, **options):
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    options = {"front_end": front_end, "genres": ["a", "b", "c"], **options}
    return small_model(backbone=backbone, image_augmentation=[gk.layers.RandomChannelEffects(seed=1)], **options)


def test_the_mean_of_logits(rng, tmp_path):
    waveforms = tones(rng, 5, 22050)
    models = [member("mel_cnn"), member("mel_resnet"), member("mel_cnn")]
    for model in models:
        for layer in model.feature_extractor.layers:  # so that the networks tell clips apart
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model.feature_extractor(model.front_end(waveforms), training=True)
    joined = average(models)
    assert joined.backbone == ("mel_cnn", "mel_resnet", "mel_cnn") and joined.get_config()["image_augmentation"] == []
    logits = np.mean([np.log(numpy(model(waveforms, training=False))) for model in models], axis=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(numpy(joined(waveforms, training=False)), expected, atol=1e-5)
    np.testing.assert_allclose(joined.for_inference().predict(waveforms, verbose=0), expected, atol=1e-4)
    joined.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(waveforms, verbose=0), expected, atol=1e-5)
    assert loaded.backbone == joined.backbone and loaded.sample_rate == 22050


@pytest.mark.once
def test_models_that_do_not_go_together():
    with pytest.raises(ValueError, match="must hold a model at least"):
        average([])
    with pytest.raises(ValueError, match="must have the same genres"):
        average([member("mel_cnn"), member("mel_cnn", genres=["a", "b", "d"])])
    with pytest.raises(ValueError, match="cannot be joined again"):
        average([average([member("mel_cnn")]), member("mel_cnn")])
    with pytest.raises(ValueError, match="Several backbones must all be of"):
        average([small_model(backbone="efficientnet_b0")] * 2)
    with pytest.raises(ValueError, match="`backbone` must be one of"):
        small_model(backbone=[])
