"""The kernel machine against scikit-learn and against leaving tracks out, and the models that it makes."""

import genrekeras as gk
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.special
from conftest import numpy, small_model
from genrekeras import training
from genrekeras.datasets.spectrograms import SpectrogramSplit
from genrekeras.models.presets import save_float16
from genrekeras.training import kernel_ridge
from sklearn.kernel_ridge import KernelRidge

GENRES = ("a", "b", "c")


def split_of(rng, tracks=60, images_of_each=1):
    """Images of 64 mels and 80 frames of three genres; those of a track are alike."""
    count = tracks * images_of_each
    labels = np.repeat(np.arange(tracks) % 3, images_of_each)
    shapes = np.repeat(rng.normal(0, 30, (tracks, 64, 1)), images_of_each, axis=0)
    slopes = 40 * (labels - 1)[:, None, None] * np.linspace(-1, 1, 64)[:, None]
    images = np.clip(128 + slopes + shapes + rng.normal(0, 15, (count, 64, 80)), 0, 255).astype("uint8")[..., None]
    ids = np.repeat(np.arange(tracks), images_of_each) + 100
    columns = {"label": labels, "genre": [GENRES[label] for label in labels], "artist_id": -1, "album_id": -1}
    tracks = pd.DataFrame({**columns, "checksum": np.arange(count)}, index=pd.Index(ids, name="track_id"))
    return SpectrogramSplit("train", images, tracks, 22050, GENRES, "official")


def machine(**options):
    front_end = gk.datasets.sampled_logmel_front_end(frames=80, sample_rate=22050, n_mels=64)
    return small_model(backbone="mel_kernel", front_end=front_end, genres=GENRES, dropout=0.0, **options)


def points_of(model, split):
    points = keras.Model(model.feature_extractor.input, model.feature_extractor.layers[-2].output)
    return points.predict(split.images.astype("float32"), verbose=0).astype("float64")


def logits_of(probabilities):
    logits = np.log(probabilities)
    return logits - logits.mean(axis=1, keepdims=True)


def by_scikit_learn(points, labels, others, rest=slice(None), weights=None):
    """Scores of other points, those of `rest` being known; the prior is that of all."""
    targets = np.eye(3)[labels]
    prior = np.average(targets, axis=0, weights=weights)
    regression = KernelRidge(alpha=0.3, kernel="rbf", gamma=1.0)
    weights = None if weights is None else weights[rest]
    return regression.fit(points[rest], (targets - prior)[rest], sample_weight=weights).predict(others) + prior


def sureness_of(logits, scores):
    """The factor between them, but for what softmax does not tell."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    factor = (logits * scores).sum() / (scores**2).sum()
    np.testing.assert_allclose(logits, factor * scores, atol=2e-3 * np.abs(logits).max())
    return factor


@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 0.5]])
def test_kernel_ridge_regression(rng, class_weight):
    split, others, model = split_of(rng), split_of(rng, 30), machine()
    found = training.fit_kernel_ridge(model, split, class_weight=class_weight)
    weights = None if class_weight is None else np.asarray(class_weight)[split.labels]
    points = points_of(model, split)
    expected = by_scikit_learn(points, split.labels, points_of(model, others), weights=weights)
    sureness = sureness_of(logits_of(model.image_model.predict(others.images.astype("float32"), verbose=0)), expected)
    assert sureness > 1
    for track in (0, 7, 59):  # as all others tell it
        rest = np.arange(60) != track
        own = sureness * by_scikit_learn(points, split.labels, points[~rest], rest, weights)
        np.testing.assert_allclose(found[~rest], scipy.special.softmax(own, axis=1), atol=2e-3)


def test_images_of_a_track_do_not_tell_each_other(rng):
    split, model = split_of(rng, 20, images_of_each=3), machine()
    found = training.fit_kernel_ridge(model, split)
    points = points_of(model, split)
    logits = logits_of(model.image_model.predict(split.images.astype("float32"), verbose=0))
    sureness = sureness_of(logits, by_scikit_learn(points, split.labels, points))
    rest = split.track_ids != 104
    own = sureness * by_scikit_learn(points, split.labels, points[~rest], rest)
    np.testing.assert_allclose(found[~rest], scipy.special.softmax(own, axis=1), atol=2e-3)


def test_distances_count_what_stays_while_a_clip_goes_on(rng):
    """Standardized, each kind alike, divided by how much quarters differ: by linear algebra of another form."""
    split, model = split_of(rng), machine()
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
    points = points_of(model, split)
    np.testing.assert_allclose(((points[:, None] - points) ** 2).sum(axis=2), expected, atol=1e-3 * expected.max())


def test_landmarks_by_lot(rng, monkeypatch):
    """40 of 300 images stand for all, in 128 directions: the least squares that they can reach, with a ridge."""
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 40)
    monkeypatch.setattr("genrekeras.models.backbones.mel_kernel.LANDMARKS", 40)
    split, landmarks = split_of(rng, 300), []
    for seed in (0, 1):
        model = machine()
        training.fit_kernel_ridge(model, split, seed=seed)
        points, chosen = points_of(model, split), model.feature_extractor.layers[-1].get_weights()[0]
        landmarks.append(chosen)
        assert np.abs(points[:, None] - chosen).sum(axis=2).min(axis=0).max() < 1e-2  # each is one of the images
        like = np.exp(-((points[:, None] - chosen) ** 2).sum(axis=2))
        among = np.exp(-((chosen[:, None] - chosen) ** 2).sum(axis=2)) + 1e-3 * np.eye(40)
        targets = np.eye(3)[split.labels] - 1 / 3
        weights = np.linalg.solve(like.T @ like + 0.3 * among, like.T @ targets)
        logits = logits_of(model.image_model.predict(split.images.astype("float32"), verbose=0))
        sureness_of(logits, like @ weights)
    assert not np.allclose(*landmarks)


def test_images_that_are_all_but_the_same_have_no_huge_weights(rng, monkeypatch, tmp_path):
    """They would not survive 16 bits."""
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 100)
    monkeypatch.setattr("genrekeras.models.backbones.mel_kernel.LANDMARKS", 100)
    split, model = split_of(rng, 120), machine()
    split.images[1::2] = split.images[::2]
    split.images[1::2, 5, 7] ^= 1
    training.fit_kernel_ridge(model, split)
    save_float16(model, tmp_path / "m.keras")
    images = split.images.astype("float32")
    found = gk.load_model(tmp_path / "m.keras").image_model.predict(images, verbose=0)
    np.testing.assert_allclose(found, model.image_model.predict(images, verbose=0), atol=0.02)


def test_the_model_is_one_like_any_other(rng, tmp_path):
    split, model = split_of(rng), machine()
    model.card = {"scores": []}
    training.fit_kernel_ridge(model, split)
    assert not model.card
    expected = model.image_model.predict(split.images.astype("float32"), verbose=0)
    report = gk.evaluation.evaluate(model, split)
    np.testing.assert_allclose(report.probabilities, expected, atol=1e-5)
    assert report.accuracy > 0.9
    model.save(tmp_path / "m.keras")
    loaded = gk.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        loaded.image_model.predict(split.images.astype("float32"), verbose=0), expected, atol=1e-5
    )
    other = small_model(**{**model.get_config(), "backbone": "mel_cnn", "front_end": model._config_layers["front_end"]})
    joined = gk.models.ensemble.average([other, model], weights=[1, 3])
    parts = [logits_of(numpy(part.image_model(split.images.astype("float32")))) for part in (other, model)]
    found = logits_of(numpy(joined.image_model(split.images.astype("float32"))))
    np.testing.assert_allclose(found, 0.25 * parts[0] + 0.75 * parts[1], atol=1e-4 * np.abs(found).max())
    save_float16(model, tmp_path / "half.keras")  # most of its landmarks are not needed
    found = gk.load_model(tmp_path / "half.keras").image_model.predict(split.images.astype("float32"), verbose=0)
    np.testing.assert_allclose(found, expected, atol=0.02)
    found = gk.evaluation.calibrate(model, split)
    assert found.max_ood_score is None and found.min_confidence > 0
    for weights in ([1.0], [1.0, 0.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="`weights` must be a number > 0 for each of 2 models"):
            gk.models.ensemble.average([other, model], weights)


def test_the_same_image_twice_and_silence(rng):
    split, model = split_of(rng, 12), machine()
    split.images[:6] = split.images[:1]
    split.images[6:8] = 0
    assert np.isfinite(training.fit_kernel_ridge(model, split)).all()
    assert np.isfinite(model.image_model.predict(split.images.astype("float32"), verbose=0)).all()
    split.images[:] = 100  # nothing differs, and nothing moves
    training.fit_kernel_ridge(model, split)
    found = model.image_model.predict(split.images.astype("float32"), verbose=0)
    np.testing.assert_allclose(found, 1 / 3, atol=1e-3)


def test_what_is_refused(rng):
    split, model = split_of(rng), machine()
    with pytest.raises(ValueError, match='must have backbone="mel_kernel"'):
        training.fit_kernel_ridge(small_model(backbone="mel_cnn"), split)
    for ridge in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="`ridge` must be a number > 0"):
            training.fit_kernel_ridge(model, split, ridge=ridge)
    with pytest.raises(ValueError, match="gives no image any weight"):
        training.fit_kernel_ridge(model, split, class_weight=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="two tracks at least"):
        training.fit_kernel_ridge(model, split.select([3]))
    with pytest.raises(ValueError, match="two tracks at least"):
        training.fit_kernel_ridge(model, split.select([]))
    narrow = split_of(rng)
    narrow.images = narrow.images[:, :, :79]
    with pytest.raises(ValueError, match=r"must hold images of \(64, 80, 1\), which the model's front end makes"):
        training.fit_kernel_ridge(model, narrow)
    with pytest.raises(ValueError, match="The data's `genres` is not the model's"):
        split.genres = ("x", "y", "z")
        training.fit_kernel_ridge(model, split)
    with pytest.raises(ValueError, match="`class_weight` must be"):
        training.fit_kernel_ridge(model, split, class_weight=[1.0])
