"""The recipe of the preset fma_small."""

import genrekeras as gk
import numpy as np
import pandas as pd
import pytest
from genrekeras.runs import recipe


@pytest.fixture
def split(tmp_path, rng):
    """64 images of 16 artists. The brightness of an image shows the genre."""
    labels, ids = np.arange(64) % 2, np.arange(64)
    images = np.clip(60 + 100 * labels[:, None, None] + rng.normal(0, 8, (64, 32, 32)), 0, 255).astype("uint8")
    arrays = {"decibels": images, "label": labels, "split": np.zeros(64, int), "track_id": ids, "genres": ["a", "b"]}
    np.savez(tmp_path / "spectrograms.npz", **arrays)
    pd.DataFrame({"track_id": ids, "artist_id": ids % 16}).to_csv(tmp_path / "artists.csv", index=False)
    return gk.datasets.load_spectrograms(tmp_path / "spectrograms.npz", groups=tmp_path / "artists.csv").train


def test_moving_average_forgets_random_weights():
    assert recipe.ema_momentum(2200) == 0.998
    assert all(recipe.ema_momentum(steps) ** steps < 0.02 for steps in (1, 2, 5, 80, 800, 4000))


def test_teacher_is_not_trained_on_the_artist(split):
    """If embeddings show only the artist, out-of-fold probabilities are at chance."""
    one_hot = np.eye(16)[split.tracks["artist_id"]]
    hits = (recipe.teacher_probabilities(one_hot, split).argmax(1) == split.labels).mean()
    fitted = recipe.teacher().fit(one_hot, split.labels).score(one_hot, split.labels)
    assert fitted == 1 and hits <= 0.6


def test_training_with_embeddings(split, rng, monkeypatch):
    embeddings = np.stack([split.labels + rng.normal(0, 0.1, 64), rng.normal(size=64)], axis=1)
    network = recipe.Network("mel_cnn", epochs=2, augmentation=False, recalibrate=True)
    models = {}
    for name, values in (("labels", None), ("teacher", embeddings), ("again", embeddings), ("soft", embeddings)):
        if name == "soft":  # only soft labels
            monkeypatch.setattr(recipe, "_EMBEDDING_WEIGHT", 0.0)
        models[name] = recipe.make_model(network, split, seed=1)
        recipe.train(network, models[name], split, 1, values)
    probabilities = {name: model.image_model.predict(split.images, verbose=0) for name, model in models.items()}
    assert models["teacher"].count_params() == models["labels"].count_params()  # no second output
    np.testing.assert_array_equal(probabilities["teacher"], probabilities["again"])
    for other in ("labels", "soft"):
        assert np.abs(probabilities["teacher"] - probabilities[other]).max() > 1e-3
    assert np.abs(probabilities["soft"] - probabilities["labels"]).max() > 1e-3


def test_embedding_of_a_track_is_missing(split, tmp_path):
    path = tmp_path / "vggish.npz"
    np.savez(path, track_id=np.arange(70)[::-1], vggish=np.arange(70)[::-1, None])
    np.testing.assert_array_equal(recipe.read_embeddings(path, split)[:, 0], split.track_ids)
    np.savez(path, track_id=np.arange(10), vggish=np.zeros((10, 4)))
    with pytest.raises(ValueError, match="has no embeddings of 54 tracks, such as 10"):
        recipe.read_embeddings(path, split)
