"""Read-only folders: errors name them, and their content does not change."""

import argparse
import contextlib
import os
import warnings

import genrekeras as gk
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_sine
from genrekeras import tags, training
from genrekeras.cli import main
from genrekeras.runs.options import folder_of_run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_of_a_run(tmp_path, read_only):
    flags = argparse.Namespace(output=str(tmp_path / "run"), resume=None)
    with read_only(tmp_path), pytest.raises(SystemExit, match=f"The output folder cannot be used: .*'{flags.output}'"):
        with folder_of_run(flags):
            pass


class Clips:
    """40 clips of 64 samples; those of odd index are louder."""

    sample_rate, genres, track_ids = 64, ("soft", "loud"), np.arange(40)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        audio = np.random.default_rng(index).standard_normal(64) * (1 + index % 2)
        return {"audio": audio.astype("float32"), "genre": index % 2, "track_id": index}


def test_a_folder_that_becomes_read_only_during_training(tmp_path, read_only):
    """Each failed write is a warning. Training continues, and files that were written before are kept."""
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = gk.datasets.batches(Clips(), 8, 0.5, shuffle=True)
    saved = []

    class Close(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                saved.append(contents(tmp_path))
                stack.enter_context(read_only(tmp_path))

    best = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="accuracy")
    with contextlib.ExitStack() as stack, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks, state = [best, Close()], tmp_path / "state.npz"
        history = training.fit(model, data, 4, state, callbacks=callbacks, every_seconds=1e9, verbose=0)
    assert len(history.history["loss"]) == 4 and set(saved[0]) == {"best.keras", "state.npz"}
    assert contents(tmp_path) == saved[0]
    messages = [str(w.message) for w in caught if str(tmp_path) in str(w.message)]
    assert len(messages) >= 3
    assert all("could not be saved" in text and "Training continues" in text for text in messages), messages


def test_tags(tmp_path, read_only):
    path = write_sine(tmp_path / "song.flac", 440)
    before = contents(tmp_path)
    with read_only(tmp_path), pytest.raises(tags.TagError, match=f"{path}: .*cannot be written"):
        tags.write_genres(path, ["Rock"])
    assert contents(tmp_path) == before


def test_a_table_of_predictions(tmp_path, music, read_only):
    with read_only(tmp_path):
        done = CliRunner().invoke(main, ["predict", str(music), "-o", str(tmp_path / "x.csv")])
    assert done.exit_code == 2 and f"The folder {tmp_path} is not writable" in done.output


def test_caches(tmp_path, read_only):
    with read_only(tmp_path), pytest.raises(OSError, match=str(tmp_path)):
        gk.datasets.load_synthetic(cache_dir=tmp_path)
    assert os.listdir(tmp_path) == []
