"""Kernel ridge regression against scikit-learn and explicit leave-one-track-out fits, and the fitted models."""

import genrekeras as gk
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.special
from conftest import numpy, small_model
from genrekeras import training
from genrekeras.datasets.spectrograms import SpectrogramSplit
from genrekeras.models.saving import save_float16
from genrekeras.training import kernel_ridge
from sklearn.kernel_ridge import KernelRidge

GENRES = ("a", "b", "c")


def make_split(rng, tracks=60, images_per_track=1):
    """Images of 64 mels and 80 frames of three genres; those of a track are similar."""
    count = tracks * images_per_track
    labels = np.repeat(np.arange(tracks) % 3, images_per_track)
    shapes = np.repeat(rng.normal(0, 30, (tracks, 64, 1)), images_per_track, axis=0)
    slopes = 40 * (labels - 1)[:, None, None] * np.linspace(-1, 1, 64)[:, None]
    images = np.clip(128 + slopes + shapes + rng.normal(0, 15, (count, 64, 80)), 0, 255).astype("uint8")[..., None]
    ids = np.repeat(np.arange(tracks), images_per_track) + 100
    columns = {"label": labels, "genre": [GENRES[label] for label in labels], "artist_id": -1, "album_id": -1}
    tracks = pd.DataFrame({**columns, "checksum": np.arange(count)}, index=pd.Index(ids, name="track_id"))
    return SpectrogramSplit("train", images, tracks, 22050, GENRES, "official")


def make_model(**options):
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    return small_model(backbone="mel_kernel", front_end=front_end, genres=GENRES, dropout=0.0, **options)


def get_points(model, split):
    """The projected statistics, between which the kernel is computed."""
    points = keras.Model(model.feature_extractor.input, model.feature_extractor.layers[-2].output)
    return points.predict(split.images.astype("float32"), verbose=0).astype("float64")


def predict(model, split):
    return model.image_model.predict(split.images.astype("float32"), verbose=0)


def get_logits(model, split):
    """Logits with mean 0 of each image."""
    features = model.feature_extractor.predict(split.images.astype("float32"), verbose=0)
    kernel, bias = model.output_layer.get_weights()
    logits = features @ kernel + bias
    return logits - logits.mean(axis=1, keepdims=True)


def fit_sklearn(points, labels, others, training=slice(None), weights=None):
    """Scores of `others` after a fit on the rows `training`; the prior is that of all rows."""
    targets = np.eye(3)[labels]
    prior = np.average(targets, axis=0, weights=weights)
    regression = KernelRidge(alpha=0.3, kernel="rbf", gamma=1.0)
    weights = None if weights is None else weights[training]
    return regression.fit(points[training], (targets - prior)[training], sample_weight=weights).predict(others) + prior


def get_scale(logits, scores):
    """The factor between logits and scores, up to a constant for each row, which softmax ignores."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    factor = (logits * scores).sum() / (scores**2).sum()
    np.testing.assert_allclose(logits, factor * scores, atol=2e-3 * np.abs(logits).max())
    return factor


@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 0.5]])
def test_kernel_ridge_regression(rng, class_weight):
    split, others, model = make_split(rng), make_split(rng, 30), make_model()
    probabilities = training.fit_kernel_ridge(model, split, class_weight=class_weight)
    weights = None if class_weight is None else np.asarray(class_weight)[split.labels]
    points = get_points(model, split)
    expected = fit_sklearn(points, split.labels, get_points(model, others), weights=weights)
    scale = get_scale(get_logits(model, others), expected)
    assert scale > 1
    for track in (0, 7, 59):  # without this track
        rest = np.arange(60) != track
        scores = scale * fit_sklearn(points, split.labels, points[~rest], rest, weights)
        np.testing.assert_allclose(probabilities[~rest], scipy.special.softmax(scores, axis=1), atol=2e-3)


def test_all_images_of_a_track_are_left_out(rng):
    split, model = make_split(rng, 20, images_per_track=3), make_model()
    probabilities = training.fit_kernel_ridge(model, split)
    points = get_points(model, split)
    scale = get_scale(get_logits(model, split), fit_sklearn(points, split.labels, points))
    rest = split.track_ids != 104
    scores = scale * fit_sklearn(points, split.labels, points[~rest], rest)
    np.testing.assert_allclose(probabilities[~rest], scipy.special.softmax(scores, axis=1), atol=2e-3)


def test_distances_are_relative_to_the_variance_within_images(rng):
    """Standardized, equal weight of each kind, relative to the differences of quarters; by another computation."""
    split, model = make_split(rng), make_model()
    training.fit_kernel_ridge(model, split)
    layer, images = model.feature_extractor.layers[-3], split.images.astype("float32")
    whole, *quarters = (
        numpy(layer(part)).astype("float64")
        for part in (images, *(images[:, :, 20 * k : 20 * k + 20] for k in range(4)))
    )
    kinds = np.repeat(np.arange(11), layer.sizes(64))
    scale = np.where(whole.std(axis=0) > 1e-4, 1 / np.sqrt(11 * np.bincount(kinds)[kinds]), 0)
    scale /= np.maximum(whole.std(axis=0), 1e-4)
    standard = (whole - whole.mean(axis=0)) * scale
    rest = np.concatenate([(quarter - np.mean(quarters, axis=0)) * scale for quarter in quarters])
    basis = np.linalg.svd(standard, full_matrices=False)[2][:59]
    within = (rest @ basis.T).T @ (rest @ basis.T) / (3 * 60)
    inverse = np.linalg.inv(within + 0.3 * np.trace(within) / 59 * np.eye(59))
    products = standard @ basis.T @ inverse @ basis @ standard.T
    products *= 2 / np.trace(products) * 60
    squares = np.diag(products)
    expected = squares[:, None] + squares - 2 * products
    points = get_points(model, split)
    np.testing.assert_allclose(((points[:, None] - points) ** 2).sum(axis=2), expected, atol=1e-3 * expected.max())


def test_random_landmarks(rng, monkeypatch):
    """40 landmarks for 150 images, in 128 directions: the ridge solution in the span of their kernels."""
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 40)
    monkeypatch.setattr("genrekeras.models.backbones.mel_kernel.LANDMARKS", 40)
    split, landmarks = make_split(rng, 150), []
    for seed in (0, 1):
        model = make_model()
        training.fit_kernel_ridge(model, split, seed=seed)
        points, chosen = get_points(model, split), model.feature_extractor.layers[-1].get_weights()[0]
        landmarks.append(chosen)
        assert np.abs(points[:, None] - chosen).sum(axis=2).min(axis=0).max() < 1e-2  # each is one of the images
        kernel = np.exp(-((points[:, None] - chosen) ** 2).sum(axis=2))
        among_landmarks = np.exp(-((chosen[:, None] - chosen) ** 2).sum(axis=2)) + 1e-3 * np.eye(40)
        targets = np.eye(3)[split.labels] - 1 / 3
        weights = np.linalg.solve(kernel.T @ kernel + 0.3 * among_landmarks, kernel.T @ targets)
        get_scale(get_logits(model, split), kernel @ weights)
    assert not np.allclose(*landmarks)


def test_nearly_equal_images_have_small_weights(rng, monkeypatch, tmp_path):
    """Huge weights would be inaccurate in 16 bits."""
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 100)
    monkeypatch.setattr("genrekeras.models.backbones.mel_kernel.LANDMARKS", 100)
    split, model = make_split(rng, 120), make_model()
    split.images[1::2] = split.images[::2]
    split.images[1::2, 5, 7] ^= 1
    training.fit_kernel_ridge(model, split)
    save_float16(model, tmp_path / "m.keras")
    np.testing.assert_allclose(predict(gk.load_model(tmp_path / "m.keras"), split), predict(model, split), atol=0.02)


def test_evaluate_save_average_and_calibrate(rng, tmp_path):
    split, model = make_split(rng), make_model()
    model.card, model.thresholds = {"scores": []}, {"min_confidence": 0.5}
    training.fit_kernel_ridge(model, split)
    assert not model.card and model.thresholds.min_confidence is None
    expected = predict(model, split)
    report = gk.evaluation.evaluate(model, split)
    np.testing.assert_allclose(report.probabilities, expected, atol=1e-5)
    assert report.accuracy > 0.9
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(predict(gk.load_model(tmp_path / "m.keras"), split), expected, atol=1e-5)
    other = small_model(**{**model.get_config(), "backbone": "mel_cnn", "front_end": model._config_layers["front_end"]})
    ensemble = gk.models.ensemble.average([other, model], weights=[1, 3])
    logits = [get_logits(member, split) for member in (other, model)]
    mean = get_logits(ensemble, split)
    np.testing.assert_allclose(mean, 0.25 * logits[0] + 0.75 * logits[1], atol=1e-4 * np.abs(mean).max())
    save_float16(model, tmp_path / "half.keras")  # most of its landmarks are unused
    np.testing.assert_allclose(predict(gk.load_model(tmp_path / "half.keras"), split), expected, atol=0.02)
    thresholds = gk.evaluation.calibrate(model, split).thresholds
    assert thresholds.max_ood_score is None and thresholds.min_confidence > 0
    for weights in ([1.0], [1.0, 0.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="`weights` must be"):
            gk.models.ensemble.average([other, model], weights)


def test_equal_images_and_silence(rng):
    split, model = make_split(rng, 12), make_model()
    split.images[:6] = split.images[:1]
    split.images[6:8] = 0
    assert np.isfinite(training.fit_kernel_ridge(model, split)).all()
    assert np.isfinite(predict(model, split)).all()
    split.images[:] = 100  # all images are equal and constant
    training.fit_kernel_ridge(model, split)
    np.testing.assert_allclose(predict(model, split), 1 / 3, atol=1e-3)


def test_invalid_arguments(rng):
    split, model = make_split(rng), make_model()
    with pytest.raises(ValueError, match='must have backbone="mel_kernel"'):
        training.fit_kernel_ridge(small_model(backbone="mel_cnn"), split)
    for ridge in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="`ridge` must be a number > 0"):
            training.fit_kernel_ridge(model, split, ridge=ridge)
    with pytest.raises(ValueError, match="`class_weight` must give at least one image a weight > 0"):
        training.fit_kernel_ridge(model, split, class_weight=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="at least two tracks"):
        training.fit_kernel_ridge(model, split.select([3]))
    with pytest.raises(ValueError, match="at least two tracks"):
        training.fit_kernel_ridge(model, split.select([]))
    narrow = make_split(rng)
    narrow.images = narrow.images[:, :, :79]
    with pytest.raises(ValueError, match=r"must contain images from the model's front end, of shape \(64, 80, 1\)"):
        training.fit_kernel_ridge(model, narrow)
    with pytest.raises(ValueError, match="The data's `genres` is not the model's"):
        split.genres = ("x", "y", "z")
        training.fit_kernel_ridge(model, split)
    with pytest.raises(ValueError, match="`class_weight` must be"):
        training.fit_kernel_ridge(model, split, class_weight=[1.0])
