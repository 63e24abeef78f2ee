"""Out-of-distribution scores: comparison with NumPy, few clips, groups, and a calibrated model."""

import copy

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, numpy, small_model
from genrekeras import evaluation
from genrekeras.layers.ood_score import OODScore

SIZE, DIRECTIONS = 30, 20  # features, and directions of large variance


@pytest.fixture
def features(rng):
    """Features `(200, 2, 30)` of 200 tracks of two clips."""
    deviations = np.concatenate([np.linspace(5, 2, DIRECTIONS), np.full(SIZE - DIRECTIONS, 0.5)])
    rotation = np.linalg.qr(rng.normal(0, 1, (SIZE, SIZE)))[0]
    return (rng.normal(0, 1, (200, 2, SIZE)) * deviations @ rotation + 3).astype("float32")


def built_layer(size=SIZE):
    layer = OODScore()
    layer.build((None, size))
    return layer


def test_mahalanobis_distance(features, rng):
    layer = built_layer()
    held_out_scores = layer.fit(features)
    assert np.count_nonzero(layer.get_weights()[2].any(axis=0)) == DIRECTIONS
    clips = features.reshape(-1, SIZE)
    scores = numpy(layer(clips))
    standard = (clips - clips.mean(axis=0)) / clips.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(standard.T, bias=True))
    values = values[::-1].copy()
    values[DIRECTIONS:] = values[DIRECTIONS:].mean()  # the model of probabilistic PCA
    expected = ((standard @ vectors[:, ::-1]) ** 2 / values).sum(axis=1) / SIZE
    np.testing.assert_allclose(scores, expected, rtol=5e-3)
    assert scores.mean() == pytest.approx(1, abs=1e-3)
    training_scores = scores.reshape(200, 2).mean(axis=1)
    assert np.corrcoef(training_scores, held_out_scores)[0, 1] > 0.9
    assert (held_out_scores > training_scores).mean() > 0.9
    far = clips[:20] + 5 * rng.normal(0, 1, (20, SIZE)).astype("float32")
    assert numpy(layer(far)).min() > scores.max()


def test_few_clips_and_constant_features(features):
    layer = built_layer()
    assert layer.fit(features[:19]) is None and not any(weight.any() for weight in layer.get_weights())
    features[..., 3] = 7.0
    for values in (features, features[:20, :1], np.zeros((25, 1, SIZE), "float32")):
        assert np.isfinite(layer.fit(values)).all() and np.isfinite(numpy(layer(values[:, 0]))).all()
    layer = built_layer(3)  # fewer features than directions
    assert np.isfinite(layer.fit(features[..., :3])).all()


def test_tracks_with_different_numbers_of_clips(features):
    layers = [built_layer() for _ in range(3)]
    scores = [
        layer.fit(values) for layer, values in zip(layers, (features, list(features), features[:, :1]), strict=False)
    ]
    np.testing.assert_allclose(scores[0], scores[1])
    mixed = [clips[: 1 + number % 2] for number, clips in enumerate(features)]
    result = layers[2].fit(mixed)
    assert result.shape == (200,) and np.corrcoef(result, scores[0])[0, 1] > 0.7
    with pytest.raises(ValueError, match="must be finite"):
        layers[2].fit([*mixed[:-1], np.full((2, SIZE), np.nan)])


def test_a_calibrated_model_rejects_clicks(synthetic, tmp_path):
    model = small_model(genres=synthetic.genres)
    calibrate(model, np.stack([synthetic.train[i]["audio"][:22050] for i in range(0, 128, 4)]))
    split = copy.copy(synthetic.validation)
    predictions = evaluation.evaluate(model, split, crop="even", crops=2).predictions.astype("int32")
    split.labels = np.where(np.arange(len(split)) % 2, predictions, split.labels)  # about half are correct
    thresholds = evaluation.calibrate(model, split, crops=2, rejection_rate=0.2).thresholds
    share = model.card["calibration"]["low_confidence_share"]
    assert model.thresholds == thresholds and thresholds.max_ood_score > 0.5
    assert thresholds.max_ood_score == model.card["calibration"]["max_ood_score"]
    assert share["correct"] <= 0.4 and 0 < share["wrong"] < 1
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    clicks = loaded.predict_waveform(np.arange(3 * 22050) % 5000 == 0, 22050)
    assert clicks["low_confidence"] is True and clicks["ood_score"] > 10 * thresholds.max_ood_score
    assert clicks["probability"] > thresholds.min_confidence
    waveforms = [split[i]["audio"] for i in range(0, len(split), 5)]
    rows = [loaded.predict_waveform(waveform, split.sample_rate) for waveform in waveforms]
    assert np.median([row["ood_score"] for row in rows]) < thresholds.max_ood_score
    few = evaluation.calibrate(model, split.select(range(0, len(split), 4)), crops=1)
    assert model.predict_waveform(waveforms[0], 22050)["ood_score"] is None
    assert few.thresholds.max_ood_score is None


def test_groups(features):
    """Similar tracks of one artist are scored by the tracks of other artists."""
    groups = np.arange(200) // 8
    features[groups == 7] = features[groups == 7][:1] + 40  # far from all others, close together
    by_track, by_group = built_layer().fit(features), built_layer().fit(features, groups)
    assert by_group[groups == 7].min() > 3 * by_track[groups == 7].max()
    assert built_layer().fit(features, np.arange(200) // 11) is None  # 19 groups
    features[3, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        built_layer().fit(features)


def test_outputs_of_a_model_for_inference(one_second_model, rng):
    waveforms = rng.normal(0, 0.1, (3, 22050)).astype("float32")
    names = ("features", "probabilities", "ood_score")
    outputs = one_second_model.for_inference(*names).predict(waveforms, verbose=0)
    assert [output.shape for output in outputs] == [(3, 256), (3, len(gk.GENRES)), (3,)]
    images = numpy(one_second_model.front_end(waveforms))
    probabilities = one_second_model.for_inference("probabilities", inputs="image").predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, outputs[1], atol=1e-5)
