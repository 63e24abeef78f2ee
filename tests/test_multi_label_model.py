"""A model of several labels a track: from tags in files to a calibrated, saved model."""

import json

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from genrekeras import cli, tags

RATE = 16000


@pytest.fixture
def music(tmp_path, monkeypatch, rng):
    """96 sounds of 24 artists. "High" has a tone of 3 kHz, "Low" one of 200 Hz. A third of the tracks has both."""
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    time = np.arange(round(3.2 * RATE)) / RATE
    tones = {"High": np.sin(2 * np.pi * 3000 * time), "Low": np.sin(2 * np.pi * 200 * time)}
    for number in range(96):
        artist = number // 4
        genres = (["High"], ["Low"], ["High", "Low"])[number % 3]
        sound = sum(tones[genre] for genre in genres) * rng.uniform(0.1, 0.3) + 0.01 * rng.standard_normal(len(time))
        path = tmp_path / "music" / f"artist {artist}" / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, RATE)
        tags.write_genres(path, genres)
    return tmp_path / "music"


def test_from_tags_to_a_saved_model(music, tmp_path):
    with pytest.warns(UserWarning, match="96 tracks have neither artist nor album"):
        data = gk.datasets.load_tagged(music, sample_rate=RATE)
    assert data.genres == ("High", "Low") and data.train.multi_label
    model = gk.GenreClassifier("musicnn", data.genres, pretrained="msd", multi_label=True, dropout=0.0)
    model.compile("adam", "binary_crossentropy")
    model.optimizer.learning_rate = 0.02
    train = gk.training.extract_features(model, data.train)
    gk.training.fit_head(model, train, batch_size=16, epochs=30, verbose=0)
    report = gk.evaluation.evaluate(model, data.test)
    assert report.mean_average_precision > 0.9 and report.roc_auc > 0.9
    calibration = gk.evaluation.calibrate(model, data.validation, crops=1)
    assert len(model.thresholds.class_thresholds) == 2
    np.testing.assert_array_equal(calibration.after.predictions, data.validation.labels)
    model.save(tmp_path / "model.keras")
    loaded = gk.load_model(tmp_path / "model.keras")
    assert loaded.multi_label and loaded.thresholds == model.thresholds
    again = gk.evaluation.evaluate(loaded, data.test)
    np.testing.assert_allclose(again.probabilities, gk.evaluation.evaluate(model, data.test).probabilities, atol=1e-6)
    options = ["--model", str(tmp_path / "model.keras"), "--split", "test", "--output", str(tmp_path / "scores.json")]
    done = CliRunner().invoke(cli.main, ["evaluate", str(music), *options])
    assert done.exit_code == 0 and "neither artist nor album" in done.stderr, done.output
    assert json.loads((tmp_path / "scores.json").read_text())["clips"] == len(data.test)
    rows = loaded.predict_files([music / "artist 0" / "0.flac"])
    assert rows["genre"].iloc[0] == "High" and rows["probability"].iloc[0] > 0.5


def test_kinds_of_labels_do_not_mix(music):
    with pytest.warns(UserWarning, match="neither artist nor album"):
        data = gk.datasets.load_tagged(music, sample_rate=RATE)
    model = gk.GenreClassifier("musicnn", data.genres, pretrained="msd")
    with pytest.raises(ValueError, match="`split` must be"):
        gk.evaluation.evaluate(model, data.test)
    with pytest.raises(ValueError, match="`split` must be"):
        gk.evaluation.calibrate(model, data.validation)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="label"):
        model.fit(gk.datasets.batches(data.train, 16, model.clip_seconds), verbose=0)
