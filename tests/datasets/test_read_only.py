"""Folders that can only be read: the error names them, and what is in them stays as it is."""

import argparse
import contextlib
import os
import sys
import warnings

import genrekeras as gk
import keras
import pytest
from click.testing import CliRunner
from conftest import EXPERIMENTS, write_sine
from genrekeras import tags, training
from genrekeras.cli import main
from test_training import batches, network


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_of_a_run(tmp_path, read_only, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    import settings

    flags = argparse.Namespace(output=str(tmp_path / "run"), resume=None)
    with read_only(tmp_path), pytest.raises(SystemExit, match=f"The run's folder cannot be used: .*'{flags.output}'"):
        with settings.folder_of_run(flags):
            pass


def test_a_folder_that_closes_while_a_model_trains(tmp_path, read_only):
    """Each write that fails is a warning; training goes on, and what was written before stays."""
    whole = []

    class Close(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                whole.append(contents(tmp_path))
                stack.enter_context(read_only(tmp_path))

    best = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="accuracy")
    with contextlib.ExitStack() as stack, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks, state = [best, Close()], tmp_path / "state.npz"
        history = training.fit(network(), batches(), 4, state, callbacks=callbacks, every_seconds=1e9, verbose=0)
    assert len(history.history["loss"]) == 4 and set(whole[0]) == {"best.keras", "state.npz"}
    assert contents(tmp_path) == whole[0]
    said = [str(w.message) for w in caught if str(tmp_path) in str(w.message)]
    assert len(said) >= 3 and all("could not be saved" in text and "Training goes on" in text for text in said), said


def test_tags(tmp_path, read_only):
    path = write_sine(tmp_path / "song.flac", 440)
    before = contents(tmp_path)
    with read_only(tmp_path), pytest.raises(tags.TagError, match=f"{path}: .*cannot be written"):
        tags.write_genre(path, "Rock")
    assert contents(tmp_path) == before


def test_the_table_of_predictions(tmp_path, music, read_only):
    with read_only(tmp_path):
        done = CliRunner().invoke(main, ["predict", str(music), "-o", str(tmp_path / "x.csv")])
    assert done.exit_code == 2 and f"the folder {tmp_path} cannot be written to" in done.output


def test_caches(tmp_path, read_only):
    with read_only(tmp_path), pytest.raises(OSError, match=str(tmp_path)):
        gk.datasets.load_synthetic(cache_dir=tmp_path)
    assert os.listdir(tmp_path) == []
