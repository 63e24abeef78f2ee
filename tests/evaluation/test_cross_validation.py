"""Cross-validation: out-of-fold predictions, calibration, resumption, processes."""

import json

import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets import Dataset, SpectrogramSplit
from genrekeras.datasets.groups import artist_groups
from genrekeras.evaluation import Report, cross_validate, evaluate
from genrekeras.layers import MelSpectrogram, PowerToDecibels, SpectrogramToImage
from genrekeras.models import GenreClassifier

GENRES = ("a", "b", "c", "d")


@pytest.fixture
def split(rng):
    """240 tracks of 40 artists. The images show the artist, and they show the genre only through the artist."""
    artists = np.repeat(np.arange(40), 6)
    timbres = np.repeat(rng.integers(30, 220, (40, 8, 1, 1)), 4, axis=1)
    images = np.clip(timbres[artists] + rng.normal(0, 8, (240, 32, 32, 1)), 0, 255).astype("uint8")
    labels = (artists % 4).astype("int32")
    tracks = pd.DataFrame(
        {
            "label": labels,
            "genre": [GENRES[label] for label in labels],
            "artist_id": artists,
            "album_id": -1,
            "checksum": np.arange(240),
        },
        index=pd.Index(np.arange(1000, 1240), name="track_id"),
    )
    return SpectrogramSplit("train", images, tracks, 16000, GENRES, "official")


class NearestTrack:
    """Predict the genre of the training track with the most similar image, with a probability of 0.97."""

    def fit(self, split):
        self.means, self.labels = split.images.mean(axis=(2, 3)), split.labels

    def score(self, split):
        distances = np.linalg.norm(split.images.mean(axis=(2, 3))[:, None] - self.means, axis=2)
        probabilities = np.full((len(split), 4), 0.01)
        probabilities[np.arange(len(split)), self.labels[distances.argmin(axis=1)]] = 0.97
        tracks = split.track_ids, split.labels, probabilities
        return Report(split.genres, split.name, split.protocol, *tracks, groups=artist_groups(split.tracks))


def fit(model, split):
    model.fit(split)


def score(model, split):
    return model.score(split)


def test_artist_folds_are_at_chance_where_images_show_only_the_artist(split):
    random = cross_validate(NearestTrack, fit, split, protocol="random_folds", evaluate=score)
    by_artist = cross_validate(NearestTrack, fit, split, evaluate=score)
    assert random.report.accuracy > 0.9
    assert by_artist.report.accuracy < 0.45  # 0.25 is chance
    assert random.report.protocol == "random_folds" and by_artist.report.protocol == "artist_folds"
    np.testing.assert_array_equal(by_artist.report.track_ids, split.track_ids)
    np.testing.assert_array_equal(by_artist.report.labels, split.labels)
    np.testing.assert_array_equal(by_artist.report.groups, split.tracks["artist_id"])
    assert "40 artists" in str(by_artist.report)


def test_a_dataset_is_validated_on_all_its_tracks(split):
    parts = {name: split.select(np.arange(80) + 80 * row) for row, name in enumerate(("train", "validation", "test"))}
    data = Dataset("d", "official", **parts, genres=GENRES, sample_rate=16000, counts={}, incomplete={}, broken={})
    result = cross_validate(NearestTrack, fit, data, evaluate=score)
    np.testing.assert_array_equal(result.report.track_ids, split.track_ids)


def test_each_fold_is_calibrated_on_the_others(split):
    result = cross_validate(NearestTrack, fit, split, evaluate=score)
    assert (result.temperatures > 1.5).all()  # 0.97 is far above the accuracy
    assert result.report.log_loss < result.uncalibrated.log_loss
    assert result.report.calibration_error < result.uncalibrated.calibration_error
    np.testing.assert_array_equal(result.report.predictions, result.uncalibrated.predictions)
    changed = dict(zip(split.track_ids[result.folds == 2], np.flatnonzero(result.folds == 2), strict=True))

    def score_with_errors(model, part):
        """Predict the wrong genres in fold 2."""
        report = model.score(part)
        if set(part.track_ids) == set(changed):
            report.probabilities[:] = np.roll(report.probabilities, 1, axis=1)
        return report

    other = cross_validate(NearestTrack, fit, split, evaluate=score_with_errors)
    assert other.temperatures[2] == result.temperatures[2]
    assert (np.delete(other.temperatures, 2) != np.delete(result.temperatures, 2)).all()


def test_an_interrupted_cross_validation_is_resumed(split, tmp_path):
    trained = []

    def fit_and_count(model, part):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(len(part))
        model.fit(part)

    options = {"evaluate": score, "folder": tmp_path / "folds"}
    with pytest.raises(KeyboardInterrupt):
        cross_validate(NearestTrack, fit_and_count, split, **options)
    assert len(list((tmp_path / "folds").iterdir())) == 3
    result = cross_validate(NearestTrack, fit, split, **options)
    whole = cross_validate(NearestTrack, fit, split, evaluate=score)
    np.testing.assert_array_equal(result.report.probabilities, whole.report.probabilities)
    times = [json.loads((tmp_path / "folds" / f"fold-{fold}.json").read_text())["seconds"] for fold in range(5)]
    assert result.seconds.tolist() == times
    with pytest.raises(ValueError, match=r"fold-0\.json is the result of other tracks"):
        cross_validate(NearestTrack, fit, split, seed=1, **options)
    (tmp_path / "folds" / "fold-0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"fold-0\.json is not the result of a fold"):
        cross_validate(NearestTrack, fit, split, **options)


def test_processes_give_the_same_result(split):
    one = cross_validate(NearestTrack, fit, split, folds=2, evaluate=score)
    two = cross_validate(NearestTrack, fit, split, folds=2, evaluate=score, processes=2)
    np.testing.assert_array_equal(one.report.probabilities, two.report.probabilities)


def test_each_fold_trains_a_new_network(split):
    networks = []

    def make():
        front_end = [
            MelSpectrogram(16000, n_fft=256, hop_length=51, n_mels=32),
            PowerToDecibels(),
            SpectrogramToImage(),
        ]
        networks.append(GenreClassifier("mel_cnn", GENRES, 0.1, front_end, fine_tune="all", pretrained=None))
        return networks[-1]

    def train(model, part):
        assert len(part) == len(split) - 120
        model.image_model.compile("adam", "sparse_categorical_crossentropy")
        model.image_model.fit(part.images.astype("float32"), part.labels, batch_size=40, verbose=0)

    result = cross_validate(make, train, split, folds=2)
    assert result.report.input_coverage == "32 frames of each"
    for fold, network in enumerate(networks):
        rows = np.flatnonzero(result.folds == fold)
        expected = evaluate(network, split.select(rows)).probabilities
        np.testing.assert_allclose(result.uncalibrated.probabilities[rows], expected, atol=1e-6)
