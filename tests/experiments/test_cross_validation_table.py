"""The script of the cross-validated table."""

import importlib
import json

import numpy as np
import pandas as pd
import pytest
from conftest import EXPERIMENTS, run_in_process

pytestmark = pytest.mark.experiments

ABLATIONS = EXPERIMENTS / "ablations"


@pytest.fixture
def corpus(tmp_path, rng):
    """The flags of a corpus. Its spectrograms show the artist, and they show the genre only through the artist."""
    artists = np.repeat(np.arange(32), 8)
    timbres = np.repeat(rng.integers(30, 220, (32, 16, 1)), 2, axis=1)  # (artist, mels, 1)
    images = np.clip(timbres[artists] + rng.normal(0, 8, (256, 32, 32)), 0, 255).astype("uint8")
    np.savez(
        tmp_path / "spectrograms.npz",
        decibels=images,
        label=artists % 8,
        split=np.arange(256) // 200,
        track_id=np.arange(256),
    )
    pd.DataFrame({"track_id": np.arange(256), "artist_id": artists}).to_csv(tmp_path / "artists.csv", index=False)
    return ["--spectrograms", tmp_path / "spectrograms.npz", "--groups", tmp_path / "artists.csv"]


def test_random_folds_are_high_and_artist_folds_are_at_chance(corpus, tmp_path):
    flags = [*corpus, "--output", tmp_path / "results", "--models", "mfcc_svm"]
    for protocol in ("artist_folds", "random_folds"):
        done = run_in_process(ABLATIONS / "cross_validation.py", *flags, "--protocol", protocol)
        assert done.code == 0, done.stderr
    runs = [json.loads(line) for line in (tmp_path / "results" / "runs.jsonl").read_text().splitlines()]
    assert [run["protocol"] for run in runs] == ["artist_folds", "random_folds"]
    accuracies = []
    for run in runs:
        table = pd.read_csv(tmp_path / "results" / f"{run['file']}.csv.gz")
        assert table["track_id"].tolist() == list(range(256)) and len(run["seconds"]) == 5
        probabilities = table.iloc[:, 4:].to_numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-3)
        accuracies.append((probabilities.argmax(axis=1) == table["label"]).mean())
        folds_of_artists = table.groupby("artist_id")["fold"].nunique()
        assert (folds_of_artists == 1).all() == (run["protocol"] == "artist_folds")
    assert accuracies[0] < 0.3 and accuracies[1] > 0.8  # 0.125 is chance
    assert "| mfcc_svm |" in done.stdout and "artist folds, % | random folds, %" in done.stdout
    before = done.stdout.splitlines()[-3:]
    again = run_in_process(ABLATIONS / "cross_validation.py", *flags)  # the finished run is not repeated
    assert again.stdout.splitlines()[-3:] == before and "Fold" not in again.stderr
    printed = run_in_process(ABLATIONS / "cross_validation_table.py", tmp_path / "results")
    assert printed.stdout.splitlines()[-3:] == before


@pytest.mark.slow
def test_networks_and_their_ensemble(corpus, tmp_path):
    flags = [*corpus, "--output", tmp_path, "--models", "mel_cnn", "mel_resnet", "--epochs", "1", "--seeds", "2"]
    done = run_in_process(ABLATIONS / "cross_validation.py", *flags)
    assert done.code == 0, done.stderr
    assert all(f"\n| {model} |" in done.stdout for model in ("mel_cnn", "mel_resnet", "ensemble"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_stored_results_are_those_of_the_settings(monkeypatch):
    """Finished runs are recognized and not repeated."""
    monkeypatch.syspath_prepend(ABLATIONS)
    script = importlib.import_module("cross_validation")
    runs = script.cross_validation_table.read_runs(script.cross_validation_table.RESULTS)
    assert runs
    for run in runs:
        assert run["settings"] == str(script.NETWORKS.get(run["model"], ""))


def test_a_folder_without_runs(tmp_path):
    refused = run_in_process(ABLATIONS / "cross_validation_table.py", tmp_path)
    assert refused.code == 2 and "contains no runs" in refused.stderr
