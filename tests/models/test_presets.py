"""The model that comes with the package, what it says of real clips and of no music; models in half the room."""

import json
import os
import pathlib
import subprocess
import sys

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import REAL_CLIPS, SHARED_CLIPS, numpy, small_model
from genrekeras import audio, reports
from genrekeras.models import presets
from test_backends import OTHERS, environment, needs

FRAMES = SHARED_CLIPS.parent / "fma_frames" / "fma_small_frames.npz"


@pytest.fixture(scope="module")
def model():
    return gk.GenreClassifier.from_preset("fma_small")


def test_what_it_is(model, tmp_path):
    assert os.path.getsize(presets.preset_file("fma_small")) < 10e6
    assert model.genres == gk.GENRES and not model.compiled and 29.97 < model.clip_seconds < 29.98
    told = model.card["calibration"]
    assert told["on"]["clips"] == 800 and told["calibration_error"]["after"] < 0.1
    [scores] = model.card["scores"]
    assert scores["split"] == "validation" and scores["accuracy"] > 0.58 and len(scores["genre_recall"]) == 8
    reports.model_card(model, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    for part in ("artists' licences", "for research", "What it confuses most", "| Hip-Hop |", "official"):
        assert part in text, part
    beside = pathlib.Path(presets.preset_file("fma_small")).with_suffix(".md")
    assert beside.read_text() == text  # genrekeras info fma_small.keras --card fma_small.md
    with pytest.raises(ValueError, match=r"there are fma_small\. Received: 'fma_huge'"):
        gk.GenreClassifier.from_preset("fma_huge")


def test_real_clips(model, real_clips):
    """Its front end makes what it was trained on, and from the music it finds the same genres as from that.

    Clips of 30.00 s are heard to 29.98 s: the spectra are then taken up to 0.02 s earlier.
    """
    if not FRAMES.is_file():
        pytest.skip("the real spectra (shared/data/fma_frames beside this checkout) are not here")
    data = gk.datasets.load_spectrograms(FRAMES)
    found = model.predict_files(list(real_clips.values()))
    compared, layers = 0, [layer for layer in model.front_end.layers if not isinstance(layer, keras.layers.InputLayer)]
    for track_id, genre in zip(real_clips, found["genre"], strict=True):
        made = audio.load(real_clips[track_id], 44100, duration=30.0)[None]  # as they were made
        exact = made.shape[1] == model.input_shape[1]
        for layer in layers:
            made = layer(made)
        made = numpy(made)[0]
        for split in (data.train, data.validation):
            for place in np.flatnonzero(split.track_ids == track_id):
                stored = split.images[place].astype("float32")
                assert np.abs(made - stored).mean() * 80 / 255 < 0.5
                if exact:
                    waveform = audio.load(real_clips[track_id], 44100)[None]
                    np.testing.assert_allclose(numpy(model.front_end(waveform))[0], made, atol=1e-2)
                assert genre == gk.GENRES[int(numpy(model.image_model(stored[None]))[0].argmax())]
                compared += 1
    assert compared >= 6  # those of test are not in the file
    right = sum(genre == REAL_CLIPS[track_id] for track_id, genre in zip(real_clips, found["genre"], strict=True))
    assert right >= 6  # of 8, most of them trained on


def test_what_is_no_music_is_unsure(model, rng):
    time = np.arange(30 * 44100) / 44100
    sounds = {
        "silence": np.zeros(len(time)),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "clicks": np.arange(len(time)) % 22050 == 0,
        "white noise": 0.1 * rng.standard_normal(len(time)),
    }
    for name, sound in sounds.items():
        row = model.predict_waveform(sound, 44100)
        assert (
            row["reason"] == "unlike the training data"
            and row["ood_score"] > model.card["calibration"]["max_ood_score"]
        ), name
        assert row["probability"] > model.card["calibration"]["min_confidence"], name  # the probability does not tell


OTHER_BACKEND = """
import json, sys, genrekeras as gk, numpy as np
model = gk.GenreClassifier.from_preset("fma_small")
found = model.for_inference("probabilities", "ood_score").predict(np.load(sys.argv[1]), verbose=0)
print(json.dumps([output.tolist() for output in found]))
"""


@pytest.mark.parametrize("backend", [*OTHERS, "numpy"])
def test_the_same_on_each_backend(model, backend, rng, tmp_path):
    needs(backend)
    steps = rng.standard_normal((2, model.input_shape[1]))
    waveforms = (np.stack([steps[0], np.cumsum(steps[1]) / 1000]) / 10).astype("float32")
    np.save(tmp_path / "waveforms.npy", waveforms)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND, str(tmp_path / "waveforms.npy")],
        env=environment(backend),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = model.for_inference("probabilities", "ood_score").predict(waveforms, verbose=0)
    np.testing.assert_allclose(theirs[0], ours[0], atol=1e-5)
    np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-4)


def test_in_half_the_room(tmp_path, rng):
    model = small_model(genres=["a", "b"], card={"about": "songs"})
    layer = model.head.layers[-1]
    layer.set_weights([layer.get_weights()[0], np.array([1e5, -0.125], "float32")])  # one is too large for 16 bits
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "whole.keras")
    presets.save_float16(model, tmp_path / "half.keras")
    assert os.path.getsize(tmp_path / "half.keras") < 0.52 * os.path.getsize(tmp_path / "whole.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert not loaded.compiled and dict(loaded.card) == {"about": "songs"}
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(loaded.head.layers[-1].get_weights()[1], [1e5, -0.125])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.keras", "whole.keras"]
