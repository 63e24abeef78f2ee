"""The preset fma_small: its card, its predictions of music and of other sounds, on each backend."""

import importlib.util
import json
import os
import subprocess
import sys

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import REAL_CLIPS, SHARED_CLIPS, numpy
from genrekeras import audio
from genrekeras.models import presets

FRAMES = SHARED_CLIPS.parent / "fma_frames" / "fma_small_frames.npz"


@pytest.fixture(scope="module")
def model():
    return gk.GenreClassifier.from_preset("fma_small")


def test_config_and_card(model):
    assert os.path.getsize(presets.preset_file("fma_small")) < 10e6
    assert model.genres == gk.GENRES and not model.compiled and 29.97 < model.clip_seconds < 29.98
    calibration = model.card["calibration"]
    assert calibration["on"]["clips"] == 7194 and calibration["calibration_error"]["after"] < 0.05
    assert model.thresholds.better_than_chance and model.thresholds.max_ood_score == calibration["max_ood_score"]
    [scores] = model.card["scores"]
    assert scores["split"] == "cross-validation" and scores["accuracy"] > 0.58 and len(scores["genre_recall"]) == 8
    assert "fold 5, which was not used to choose the recipe, the accuracy is" in model.card["about"]
    with pytest.raises(ValueError, match=r"`name` must be one of \('musicnn_msd', .*\)\. Received: name='fma_huge'"):
        gk.GenreClassifier.from_preset("fma_huge")


@pytest.mark.slow
def test_real_clips(model, real_clips):
    """The front end computes the images of the training data, and predictions from music and from images agree.

    Of clips of 30.00 s, 29.98 s are processed: their spectra are up to 0.02 s earlier.
    """
    if not FRAMES.is_file():
        pytest.skip("the real spectra (shared/data/fma_frames beside this checkout) are not here")
    data = gk.datasets.load_spectrograms(FRAMES)
    predictions = model.predict_files(list(real_clips.values()))
    compared, layers = 0, [layer for layer in model.front_end.layers if not isinstance(layer, keras.layers.InputLayer)]
    for track_id, genre in zip(real_clips, predictions["genre"], strict=True):
        image = audio.load(real_clips[track_id], 44100, duration=30.0)[None]  # as for the training data
        exact = image.shape[1] == model.input_shape[1]
        for layer in layers:
            image = layer(image)
        image = numpy(image)[0]
        for split in (data.train, data.validation):
            for index in np.flatnonzero(split.track_ids == track_id):
                stored = split.images[index].astype("float32")
                assert np.abs(image - stored).mean() * 80 / 255 < 0.5
                if exact:
                    waveform = audio.load(real_clips[track_id], 44100)[None]
                    np.testing.assert_allclose(numpy(model.front_end(waveform))[0], image, atol=1e-2)
                assert genre == gk.GENRES[int(numpy(model.image_model(stored[None]))[0].argmax())]
                compared += 1
    assert compared >= 6  # clips of the test split are not in the file
    correct = sum(genre == REAL_CLIPS[track] for track, genre in zip(real_clips, predictions["genre"], strict=True))
    assert correct >= 6  # of 8, most of which are training clips


def test_sounds_other_than_music_have_low_confidence(model, rng):
    time = np.arange(30 * 44100) / 44100
    sounds = {
        "silence": np.zeros(len(time)),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "clicks": np.arange(len(time)) % 22050 == 0,
        "white noise": 0.1 * rng.standard_normal(len(time)),
    }
    for name, sound in sounds.items():
        row = model.predict_waveform(sound, 44100)
        assert row["reason"] == "unlike the training data", name
        assert row["ood_score"] > model.thresholds.max_ood_score, name
        assert row["probability"] > model.thresholds.min_confidence, name


OTHER_BACKEND = """
import json, sys, genrekeras as gk, numpy as np
model = gk.GenreClassifier.from_preset("fma_small")
outputs = model.for_inference("probabilities", "ood_score").predict(np.load(sys.argv[1]), verbose=0)
print(json.dumps([output.tolist() for output in outputs]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "numpy"])
def test_predictions_are_equal_on_each_backend(model, backend, rng, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    steps = rng.standard_normal((2, model.input_shape[1]))
    waveforms = (np.stack([steps[0], np.cumsum(steps[1]) / 1000]) / 10).astype("float32")
    np.save(tmp_path / "waveforms.npy", waveforms)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND, str(tmp_path / "waveforms.npy")],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout.splitlines()[-1])
    references = model.for_inference("probabilities", "ood_score").predict(waveforms, verbose=0)
    np.testing.assert_allclose(outputs[0], references[0], atol=1e-5)
    np.testing.assert_allclose(outputs[1], references[1], rtol=1e-4)
